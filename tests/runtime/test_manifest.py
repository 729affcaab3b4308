"""The manifest of a program whose hashes are right and whose content is not: told when it is read."""

from __future__ import annotations

import copy
import hashlib
import json
import struct
import tracemalloc
import zlib
from pathlib import Path

import pytest
from fake_bundles import write_program
from small_models import tiny_network

from aqd_deploy.errors import ProgramError
from aqd_deploy.runtime.container import FORMAT_VERSION, append_manifest, read_manifest
from aqd_deploy.runtime.manifest import check_packaged, unpack_manifest

LIBRARY = b"\x7fELF" + bytes(60)


@pytest.fixture
def manifest(tmp_path) -> dict:
    return read_manifest(write_program(tmp_path / "m.so"))


def written(path: Path, manifest: object) -> Path:
    path.write_bytes(LIBRARY)
    append_manifest(path, manifest)  # type: ignore[arg-type]
    return path


def with_stream(path: Path, stream: bytes) -> Path:
    """A program whose manifest is this zlib stream, both hashes right."""
    hashes = hashlib.sha256(LIBRARY).digest(), hashlib.sha256(stream).digest()
    footer = struct.pack("<8sIIQQ32s32s", b"AQDPROG\0", FORMAT_VERSION, 0, len(LIBRARY), len(stream), *hashes)
    path.write_bytes(LIBRARY + stream + footer)
    return path


CHANGES = [
    (("program",), None, "has no program"),
    (("program",), [], "valid program; got .*; valid: an object"),
    (("program", "inputs"), None, "has no program.inputs"),
    (("program", "inputs", 0, "shape"), [1, -3, 2, 4], r"program\.inputs\[0\]\.shape\[1\]; got -3"),
    (("program", "inputs", 0, "shape"), [1, True, 2, 4], r"shape\[1\]; got True"),
    (("program", "inputs", 0, "shape"), [3], r"shape; got \[3\]; valid: a list of 4 values"),
    (("program", "inputs", 0, "dtype"), "object", r"dtype; got 'object'; valid: one of 'uint8'"),
    (("program", "inputs", 0, "name"), 7, r"name; got 7; valid: a text"),
    (("program", "threads"), 10**30, "threads"),
    (("program", "target", "features"), "avx2", "features"),
    (("program", "target"), "x", r"program\.target"),
    (("program", "weights"), {"by_bits": {"4": {}}}, r"by_bits\.4\.tensors"),
    (("program", "layers"), [{"name": "a", "macs": "many"}], r"layers\[0\]\.macs"),
    (("outputs",), {"y": {"scale": "x"}}, r"outputs\.y\.scale"),
    (("ranges",), [1], "ranges"),
    (("name",), {}, "name"),
]  # fmt: skip


@pytest.mark.parametrize(("place", "value", "message"), CHANGES, ids=[message for *_, message in CHANGES])
def test_fields_that_are_missing_or_of_another_type(tmp_path, manifest, place, value, message):
    changed = copy.deepcopy(manifest)
    *way, last = place
    holder = changed
    for key in way:
        holder = holder[key]
    if value is None:
        del holder[last]
    else:
        holder[last] = value
    with pytest.raises(
        ProgramError, match=rf"the manifest of the program .*m\.so has no .*{message.removeprefix('has no ')}"
    ):
        read_manifest(written(tmp_path / "m.so", changed))


def test_what_a_bundle_says_of_its_program(manifest):
    with pytest.raises(ProgramError, match=r"m\.so has no program\.aqd_deploy_version"):
        check_packaged(manifest, "m.so")


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (b"", "ends too early"),
        (b"text", "no zlib stream"),
        (zlib.compress(b'{"program": {}}')[:-5], "ends too early"),
        (zlib.compress(b"{"), "no JSON document"),
        (zlib.compress(b"\xff"), "no JSON document"),
        (zlib.compress(b"[" * 100_000), "nested more than"),
        (zlib.compress(b'{"program": NaN}'), "NaN is not a JSON number"),
        (zlib.compress(b"7"), "an object"),
    ],
)
def test_streams(tmp_path, stream, message):
    with pytest.raises(ProgramError, match=message):
        read_manifest(with_stream(tmp_path / "m.so", stream))


def test_a_stream_that_inflates_without_end(monkeypatch):
    from aqd_deploy.runtime import manifest

    monkeypatch.setattr(manifest, "MANIFEST_LIMIT", 1 << 20)
    bomb = zlib.compress(bytes(64 << 20), 9)
    tracemalloc.start()
    with pytest.raises(ProgramError, match="more than 1048576 bytes"):
        unpack_manifest(bomb, "m.so")
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_what_is_not_known_is_let_pass(tmp_path, manifest):
    newer = {**manifest, "more": [1], "program": {**manifest["program"], "more": {}}}
    assert read_manifest(written(tmp_path / "m.so", newer)) == json.loads(json.dumps(newer))


def test_a_program_whose_manifest_names_another_shape(tmp_path):
    """Its hashes are right, so only running it shows that the code was compiled for another input."""
    from aqd_deploy.compiler import compile_model
    from aqd_deploy.runtime import Program

    path = tmp_path / "m.so"
    compile_model(tiny_network(), path, target="x86-64-v2", threads=1)
    manifest, library = read_manifest(path), path.read_bytes()
    manifest["program"]["inputs"][0]["shape"][2] += 1
    path.write_bytes(library[: _library_bytes(library)])
    append_manifest(path, manifest)
    program = Program.load(path)
    for use in (lambda: program.run(program.random_inputs()), program.time, program.profile):
        with pytest.raises(ProgramError, match="does not run as its manifest describes it"):
            use()


@pytest.mark.parametrize("layers", [None, [], [{"name": "a"}, {"name": "b"}]])
def test_a_program_whose_manifest_names_other_layers(tmp_path, layers):
    from aqd_deploy.compiler import compile_model
    from aqd_deploy.runtime import Program

    path = tmp_path / "m.so"
    compile_model(tiny_network(), path, target="x86-64-v2", threads=1)
    manifest, library = read_manifest(path), path.read_bytes()
    calls = len(manifest["program"].pop("layers"))
    assert calls > 2
    if layers is not None:
        manifest["program"]["layers"] = layers
    path.write_bytes(library[: _library_bytes(library)])
    append_manifest(path, manifest)
    with pytest.raises(ProgramError, match=f"got {calls} calls of kernels for {len(layers or [])} layers"):
        Program.load(path).profile()


def test_no_memory_is_told_as_that(tmp_path, monkeypatch):
    """TVM has one kind of error for all failures."""
    from aqd_deploy.compiler import compile_model
    from aqd_deploy.runtime import Program, backend

    path = tmp_path / "m.so"
    compile_model(tiny_network(), path, target="x86-64-v2", threads=1)
    program = Program.load(path)

    def no_memory(*_: object) -> None:
        raise RuntimeError("std::bad_alloc")

    monkeypatch.setattr(program, "_idle", [no_memory] * 4)
    with pytest.raises(MemoryError):
        program.run(program.random_inputs())
    with pytest.raises(MemoryError):
        program.time()
    monkeypatch.setattr(backend, "new_machine", lambda _: {"main": no_memory, "set_instrument": id})
    with pytest.raises(MemoryError):
        program.profile()


def _library_bytes(data: bytes) -> int:
    size: int = struct.unpack_from("<Q", data, len(data) - 96 + 16)[0]
    return size
