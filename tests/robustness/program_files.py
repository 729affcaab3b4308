"""Damaged programs and bundles."""

from __future__ import annotations

import hashlib
import json
import random
import struct
import zlib
from pathlib import Path

import mutations
from mutations import damage_document, damage_json, json_text
from subject import Subject


def programs(ready: dict[str, bytes]) -> list[Subject]:
    needed = {name: ready[name] for name in ("sound.npz", "sound.png")}

    def readers(name: str) -> tuple[tuple[str, ...], ...]:
        return (
            ("run", name, "--input", "{sound.npz}", "--threads", "1", "-o", "{out.npz}"),
            ("detect", name, "{sound.png}", "-o", "{out}", "--threads", "1"),
        )

    files = (
        ("inspect", "{m.so}"),
        ("bench", "{m.so}", "--estimate", "x86-64-v3"),
        ("bench", "{m.so}", "--rounds", "1", "--runs", "1", "--json"),
        ("package", "{m.so}", "-o", "{out}"),
    )
    whole = ready["sound.so"]
    return [
        Subject("program", "m.so", whole, _program, (*readers("{m.so}"), *files), needed, 5),
        Subject("bundle's program", "b/program.so", whole, _program, readers("{b}"), {**needed,
        "b/aqd-run": b""}),
        Subject("bundle's manifest", "b/manifest.json", _bundle_manifest(whole), damage_json, (_read_bundle,),
                {"b/program.so": whole, "b/manifest.sha256": b""}),
    ]  # fmt: skip


def _program(data: bytes, rng: random.Random) -> bytes:
    """A program whose manifest or footer says something else, its hashes right."""
    footer = struct.Struct("<8sIIQQ32s32s")
    magic, version, zero, library, packed, *_ = footer.unpack(data[-footer.size :])
    body, text = data[:library], zlib.decompress(data[library : library + packed])
    if rng.random() < 0.2:
        numbers = [version, zero, library, packed]
        numbers[rng.randrange(4)] = rng.choice([abs(n) % (1 << 32) for n in mutations.ODD_INTEGERS])
        return data[: -footer.size] + footer.pack(magic, *numbers, *_)
    if rng.random() < 0.1:
        # The last but one takes the most memory of all documents of its size.
        stream = rng.choice((b"", b"x", zlib.compress(b"\0" * (1 << 28), 9), zlib.compress(text)[:-3],
                             zlib.compress(b"7"), zlib.compress(b"[[]" + b",[]" * 2_000_000 + b"]"),
                             zlib.compress(b"\xff")))  # fmt: skip
    else:
        document = json_text(damage_document(json.loads(text), rng), rng)
        stream = zlib.compress(document.encode(errors="surrogateescape"))
    hashes = hashlib.sha256(body).digest(), hashlib.sha256(stream).digest()
    return body + stream + footer.pack(magic, version, zero, len(body), len(stream), *hashes)


def _bundle_manifest(program: bytes) -> bytes:
    from aqd_deploy.bundle.create import CHUNK, FORMAT_VERSION, KIND

    chunks = (program[at : at + CHUNK] for at in range(0, len(program), CHUNK))
    tree = hashlib.sha256(b"".join(hashlib.sha256(chunk).digest() for chunk in chunks)).hexdigest()
    digest = hashlib.sha256(program).hexdigest()
    entry = {"path": "program.so", "bytes": len(program), "sha256": digest, "tree": tree}
    return json.dumps({"kind": KIND, "format": FORMAT_VERSION, "files": [entry], "weight_bytes": 1}).encode()


def _read_bundle(folder: Path) -> None:
    from aqd_deploy.bundle.create import MANIFEST_HASH, read_bundle

    path = folder / "b" / "manifest.json"
    if path.is_file() and path.stat().st_size < 1 << 22:
        line = f"{hashlib.sha256(path.read_bytes()).hexdigest()}  manifest.json\n"
        (folder / "b" / MANIFEST_HASH).write_text(line)
    bundle = read_bundle(folder / "b")
    _ = bundle.total_bytes, bundle.bytes_beside_weights
