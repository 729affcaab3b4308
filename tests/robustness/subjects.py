"""The files that are damaged: one small sound example of every kind, how it is damaged with its form kept,
and what reads it.

A subject's reader is a command line in which `{name}` stands for files of the case's folder, or a function of
the library for the readers that no verb calls on their own.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import random
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mutations
import numpy as np
import onnx
from mutations import damage_bytes, damage_document, json_text
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
from qdq_graphs import QdqBuilder

Read = Callable[[Path], Any]
Damage = Callable[[bytes, random.Random], bytes]
SIDE = 8
TARGET = "x86-64-v2"
TUNED_TARGET = "x86-64-v3"

MANIFEST = {
    "schema": 1,
    "name": "tiny",
    "bits": {"weights": 4, "activations": 4, "first_last": 8},
    "preprocessing": {
        "input": "image", "height": SIDE, "width": SIDE, "color": "BGR", "resize": "letterbox",
        "pad_value": [104, 116, 124], "mean": [104, 116, 124], "std": [1, 1, 1],
    },
    "detector": {
        "kind": "fcos", "classes": ["a", "b"], "strides": [1],
        "outputs": {"cls": ["cls_p3"], "box": ["box_p3"], "ctr": ["ctr_p3"]}, "anchors": None,
        "score_threshold": 0.05, "nms_iou": 0.6, "max_detections": 20, "pre_nms": 100,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """A kind of file: its `name` in a case's folder, sound `content`, damage that keeps its form, the
    readers, and other files the readers need. `weight` is how often it is drawn.
    """

    kind: str
    name: str
    content: bytes
    damage: Damage
    readers: tuple[tuple[str, ...] | Read, ...]
    beside: dict[str, bytes] = dataclasses.field(default_factory=dict)
    weight: int = 1


def detector() -> onnx.ModelProto:
    """A QDQ detector of one level, with what a real one has: padded stem, skip-add, pooling, shared heads."""
    b = QdqBuilder(3, SIDE, SIDE)
    x = b.relu(b.batch_norm(b.conv(b.image(), 4, 8)))
    y = b.relu(b.batch_norm(b.conv(b.quantize(x, 4), 4, 4)))
    y = b.batch_norm(b.conv(b.quantize(y, 4), 4, 4, bias=True, per_channel=True))
    x = b.relu(b.add(y, x))
    x = b.concat(x, b.upsample(b.max_pool(x)))
    x = b.quantize(x, 8)
    b.output(b.conv(x, 2, 8, bias=True), "cls_p3")
    b.output(b.relu(b.scale(b.conv(x, 4, 8, kernel=1, bias=True), 1.5)), "box_p3")
    b.output(b.conv(x, 1, 8), "ctr_p3")
    return b.build(MANIFEST)


def make_subjects(folder: Path) -> list[Subject]:
    """All of them; `folder` takes what has to be written to be made."""
    from aqd_deploy.compiler import compile_model
    from aqd_deploy.passes.pipeline import lower

    qdq = detector()
    integer = lower(qdq).model
    program = folder / "sound.so"
    compile_model(integer, program, target=TARGET, threads=1)
    ready = {
        "sound.onnx": integer.SerializeToString(), "sound.so": program.read_bytes(), "sound.npz": _arrays(),
        "sound.png": _image("PNG"),
    }  # fmt: skip
    return [
        *_models(qdq, integer, ready),
        *_checkpoints(folder),
        _npz(ready),
        *_images(ready),
        *_programs(ready),
        *_tables(ready),
    ]


# ONNX.


def _models(qdq: onnx.ModelProto, integer: onnx.ModelProto, ready: dict[str, bytes]) -> list[Subject]:
    readers = (
        ("inspect", "{m.onnx}"),
        ("compile", "{m.onnx}", "-o", "{out.so}", "--target", TARGET, "--threads", "1", "--tuned", "none"),
        ("bench", "{m.onnx}", "--estimate", "x86-64-v3", "--threads", "1"),
        ("run", "{m.onnx}", "--input", "{sound.npz}", "--threads", "1", "-o", "{out.npz}"),
        ("detect", "{m.onnx}", "{sound.png}", "-o", "{out}", "--threads", "1"),
    )
    lower = ("lower", "{m.onnx}", "-o", "{out.onnx}")
    tune = ("tune", "{m.onnx}", "--dry-run", "--target", TARGET, "--records", "{records}")
    needed = {name: ready[name] for name in ("sound.npz", "sound.png")}
    external = onnx.ModelProto()
    external.CopyFrom(qdq)
    blob = b""
    for tensor in external.graph.initializer:
        if len(tensor.raw_data) > 8:
            for key, value in (
                ("location", "w.bin"),
                ("offset", len(blob)),
                ("length", len(tensor.raw_data)),
            ):
                entry = tensor.external_data.add()
                entry.key, entry.value = key, str(value)
            blob += tensor.raw_data
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
    return [
        Subject("qdq", "m.onnx", qdq.SerializeToString(), _message, (lower, lower, lower, *readers), needed,
        6),
        Subject("integer", "m.onnx", integer.SerializeToString(), _message, (*readers, tune), needed, 6),
        Subject("external", "m.onnx", external.SerializeToString(), _external_data,
                (lower, *readers[:4]), {**needed, "w.bin": blob}, 3),
        Subject("external bytes", "w.bin", blob, damage_bytes, (lower, readers[0]),
                {**needed, "m.onnx": external.SerializeToString()}),
        Subject("manifest", "m.onnx", integer.SerializeToString(), _model_manifest,
                (*readers, ("inspect", "{m.onnx}", "--json")), needed, 3),
    ]  # fmt: skip


def _message(data: bytes, rng: random.Random) -> bytes:
    return mutations.damage_message(onnx.ModelProto.FromString(data), rng)


def _external_data(data: bytes, rng: random.Random) -> bytes:
    model = onnx.ModelProto.FromString(data)
    tensors = [tensor for tensor in model.graph.initializer if tensor.external_data]
    tensor = rng.choice(tensors)
    entry = rng.choice(tensor.external_data)
    texts = ("", "-1", "0", "7", "x", "1e3", "99999999999999999999", "9223372036854775807", "٣", " 4", "0x10",
             ".", "..", "/dev/zero", "w.bin/", "m.onnx", "a\0b", "w.bin")  # fmt: skip
    match rng.randrange(6):
        case 0:
            entry.key = rng.choice(("location", "offset", "length", "checksum", "x", ""))
        case 1:
            tensor.external_data.remove(entry)
        case 2:
            tensor.raw_data = b"\0" * 8
        case _:
            entry.value = rng.choice(texts)
    return model.SerializeToString()


def _model_manifest(data: bytes, rng: random.Random) -> bytes:
    model = onnx.ModelProto.FromString(data)
    entry = next(entry for entry in model.metadata_props if entry.key == "aqd.manifest")
    text = json_text(damage_document(json.loads(entry.value), rng), rng)
    entry.value = text.encode(errors="replace").decode()
    return model.SerializeToString()


# Checkpoints.


def _checkpoints(folder: Path) -> list[Subject]:
    from aqd_deploy.frontends.random_network import random_detector
    from aqd_deploy.qat.checkpoint import save_checkpoint
    from aqd_deploy.qat.config import parse_architecture

    config = parse_architecture("fcos_r18", bits=4, width=0.0625, fpn_channels=4, head_depth=1, classes=2,
                                image_height=32, image_width=32)  # fmt: skip
    model = random_detector(config)
    readers = (("export", "{m.pt}", "-o", "{out.onnx}"), ("inspect", "{m.pt}"))
    made = []
    for kind, compact in (("compact checkpoint", True), ("full checkpoint", False)):
        path = folder / "m.pt"
        save_checkpoint(path, model, compact=compact)
        made.append(Subject(kind, "m.pt", path.read_bytes(), _checkpoint, readers, weight=2))
    return made


def _checkpoint(data: bytes, rng: random.Random) -> bytes:
    import torch

    content = torch.load(io.BytesIO(data), weights_only=True)
    state = content["state"]
    name = rng.choice(sorted(state))
    match rng.randrange(6):
        case 0 | 1:
            content["config"] = json_text(damage_document(json.loads(content["config"]), rng), rng)
        case 2:
            content[rng.choice(sorted(content))] = mutations.odd_value(1, rng)
        case 3:
            state[name] = rng.choice((
                torch.zeros(0), torch.zeros(3, 3), torch.zeros(2, dtype=torch.complex64), "text", None,
                torch.full_like(state[name], torch.nan) if state[name].is_floating_point() else 7,
                torch.zeros(state[name].shape, dtype=torch.bool), torch.zeros(()).expand(state[name].shape),
                torch.zeros(state[name].shape, dtype=torch.float64), torch.empty(2, 2).to_sparse(),
                torch.zeros(10**6).expand(10**6, 10**6), torch.quantize_per_tensor(torch.ones(2), 1, 0,
                torch.qint8),
                torch.empty(4, device="meta"), state[name].to(torch.int8), -state[name].float(),
            ))  # fmt: skip
        case 4:
            del state[name]
        case 5:
            state[rng.choice(("x", name + ".", "packed:" + name, "head.gn.weight"))] = state[name]
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


# Arrays.


def _arrays() -> bytes:
    buffer = io.BytesIO()
    values = np.random.default_rng(1).integers(0, 256, (1, 3, SIDE, SIDE), np.uint8)
    np.savez(buffer, image=values)
    return buffer.getvalue()


def _npz(ready: dict[str, bytes]) -> Subject:
    readers = tuple(
        ("run", model, "--input", "{x.npz}", "--threads", "1", "-o", "{out.npz}")
        for model in ("{sound.onnx}", "{sound.so}")
    )
    needed = {name: ready[name] for name in ("sound.onnx", "sound.so")}
    return Subject("arrays", "x.npz", ready["sound.npz"], _damaged_npz, readers, needed, 3)


def _damaged_npz(data: bytes, rng: random.Random) -> bytes:
    """An archive whose member is no longer what its header, or its directory, says."""
    body = np.load(io.BytesIO(data))["image"].tobytes()
    shape = rng.choice(((1, 3, SIDE, SIDE), (10**14,), (10**7,), (-1, 3), (), (1, 3, 1 << 40, SIDE),
    (1 << 62, 1 << 62),
                        (3, SIDE, SIDE), (2.5,), "x", None, (1, 3, SIDE, SIDE + 1)))  # fmt: skip
    kind = rng.choice(
        ("|u1", "|u1", "|O", "<f8", "<i8", "|V8", "<U9", "nonsense", None, [("a", "<i4")], "|S0", "<M8[s]")
    )
    header = {"descr": kind, "fortran_order": rng.choice((False, True, 7)), "shape": shape}
    if rng.random() < 0.2:
        del header[rng.choice(sorted(header))]
    text = repr(header) if rng.random() < 0.9 else rng.choice(("[" * 20_000, "1/0", "__import__('os')", ""))
    text += " " * rng.choice((0, 5, 70_000))
    version = rng.choice((1, 1, 1, 2, 3, 9))
    form, start = ("<H", b"\x93NUMPY\x01\0") if version == 1 else ("<I", b"\x93NUMPY" + bytes([version, 0]))
    length = len(text) + 1 if rng.random() < 0.9 else rng.choice((0, 65535))
    array = start + struct.pack(form, min(length, 65535)) + text.encode() + b"\n" + body
    buffer = io.BytesIO()
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2))
    with zipfile.ZipFile(buffer, "w", method) as archive:
        names = rng.choice(
            (["image"], ["image", "image"], ["x"], ["../image"], ["image"] + ["n" * 9] * 300, [" "])
        )
        for name in names:
            archive.writestr(name + rng.choice((".npy", ".npy", "")), array)
        if rng.random() < 0.2:
            archive.writestr("bomb.npy", b"\0" * (1 << 26), zipfile.ZIP_DEFLATED)
    changed = buffer.getvalue()
    return (
        damage_bytes(changed, rng) if rng.random() < 0.2 else rng.choice((changed, changed, changed, array))
    )


# Images.


def _image(form: str, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    values = np.random.default_rng(2).integers(0, 256, (20, 24, 3), np.uint8)
    image = Image.fromarray(values)
    image = image.convert(mode) if mode != "I;16" else Image.fromarray(values[..., 0].astype(np.uint16) * 200)
    image.save(buffer, form)
    return buffer.getvalue()


def _images(ready: dict[str, bytes]) -> list[Subject]:
    reader = ("detect", "{sound.onnx}", "{%s}", "-o", "{out}", "--threads", "1")
    kinds = [("PNG", "RGB"), ("PNG", "P"), ("PNG", "I;16"), ("JPEG", "RGB"), ("JPEG", "CMYK"), ("GIF", "P"),
             ("TIFF", "RGB"), ("TIFF", "I;16"), ("BMP", "RGB"), ("WEBP", "RGBA"), ("PPM", "RGB")]  # fmt: skip
    made = []
    for form, mode in kinds:
        name = f"a.{form.lower()}"
        damage = mutations.png_with_numbers if form == "PNG" else mutations.extreme
        readers = (tuple(part % name if "%s" in part else part for part in reader),)
        made.append(Subject(f"{form} {mode}", name, _image(form, mode), damage, readers,
                            {"sound.onnx": ready["sound.onnx"]}))  # fmt: skip
    return made


# Programs and bundles.


def _programs(ready: dict[str, bytes]) -> list[Subject]:
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
        Subject("bundle's manifest", "b/manifest.json", _bundle_manifest(whole), _bundle, (_read_bundle,),
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
        stream = rng.choice((b"", b"x", zlib.compress(b"\0" * (1 << 28), 9), zlib.compress(text)[:-3],
                             zlib.compress(b"7"), zlib.compress(b"\xff")))  # fmt: skip
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


def _bundle(data: bytes, rng: random.Random) -> bytes:
    return json_text(damage_document(json.loads(data), rng), rng).encode(errors="surrogateescape")


def _read_bundle(folder: Path) -> None:
    from aqd_deploy.bundle.create import MANIFEST_HASH, read_bundle

    path = folder / "b" / "manifest.json"
    if path.is_file() and path.stat().st_size < 1 << 22:
        line = f"{hashlib.sha256(path.read_bytes()).hexdigest()}  manifest.json\n"
        (folder / "b" / MANIFEST_HASH).write_text(line)
    bundle = read_bundle(folder / "b")
    _ = bundle.total_bytes, bundle.bytes_beside_weights


# Tables: profiles, records, annotations, reports.

PROFILE = """description = "a board"
architecture = "aarch64"
triple = "aarch64-linux-gnu"
cpu = "cortex-a72"
features = ["asimd"]
aliases = ["myboard"]
extends = "aarch64"
cores = 4
clock_ghz = 1.5
l1d_kib = 32
[sources]
cores = "data sheet"
"""


def _tables(ready: dict[str, bytes]) -> list[Subject]:
    records = _records(ready["sound.onnx"])
    compile_tuned = ("compile", "{sound.onnx}", "-o", "{out.so}", "--target", TUNED_TARGET, "--threads", "1",
                     "--tuned", "{records}")  # fmt: skip
    tune = ("tune", "{sound.onnx}", "--dry-run", "--target", TUNED_TARGET, "--records", "{records}")
    model = {"sound.onnx": ready["sound.onnx"]}
    return [
        Subject("profile", "targets/board.toml", PROFILE.encode(), _profile,
                (("targets", "list"), ("targets", "show", "board"), ("targets", "show", "board", "--json"),
                 ("doctor", "--target", "host")), weight=2),
        Subject("records", "records/records.jsonl", records, _json_lines, (compile_tuned, tune), model, 2),
        Subject("annotations", "annotations.json", json.dumps(_annotations()).encode(), _bundle, (_evaluate,),
                weight=2),
        Subject("report", "report.json", json.dumps(_report()).encode(), _bundle, (_read_report,)),
    ]  # fmt: skip


def _profile(data: bytes, rng: random.Random) -> bytes:
    lines = data.decode().splitlines()
    at = rng.randrange(len(lines))
    key = lines[at].partition("=")[0].strip()
    values = ("1", "-1", "0", "1e400", "nan", "inf", '""', '"x"', "[]", "{}", "[[]]", "true", "1979-05-27",
              "9" * 5000, "[" * 5000, '["+a", 1]', '"board"', '"""', "0x7fffffffffffffffffff", '"\\u0000"',
              '"e-\\u0301"', '["myboard", "myboard"]', '["host"]')  # fmt: skip
    match rng.randrange(4):
        case 0:
            del lines[at]
        case 1:
            lines.insert(at, lines[rng.randrange(len(lines))])
        case _:
            lines[at] = f"{key} = {rng.choice(values)}"
    return "\n".join(lines).encode()


def _records(model: bytes) -> bytes:
    """Records as tuning writes them, one a convolution of `model`, so that damaged ones are used."""
    from aqd_deploy import targets
    from aqd_deploy.compiler.planning import plan_model
    from aqd_deploy.tuning.records import Header
    from aqd_deploy.tuning.tune import task_states

    device = targets.get(TUNED_TARGET)
    lines: list[dict[str, Any]] = [Header.here(device).to_json()]
    for state in task_states(plan_model(onnx.ModelProto.FromString(model)), device, 1):
        task = state.use.task
        lines.append({"task": task.key, "shape": task.shape_key, "definition": {}})
        lines.append({"task": task.key, "choice": state.best.to_json(), "state": "accepted", "seconds": 1e-3,
                      "best_seconds": 2e-3, "reason": ""})  # fmt: skip
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def _json_lines(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    at = rng.randrange(len(lines))
    text = json_text(damage_document(json.loads(lines[at]), rng), rng)
    lines[at] = text.encode(errors="surrogateescape") + b"\n"
    return b"".join(lines)


def _annotations() -> dict[str, Any]:
    return {
        "images": [{"id": 1, "file_name": "a.png", "width": 24, "height": 20}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 10, 8], "area": 80,
        "iscrowd": 0}],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    }  # fmt: skip


def _evaluate(folder: Path) -> None:
    from aqd_deploy.detection.results import category_ids
    from aqd_deploy.evaluation.coco import evaluate, load_annotations

    found = [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 9, 8], "score": 0.5}]
    category_ids(["a", "b"], load_annotations(folder / "annotations.json"))
    evaluate(folder / "annotations.json", found)


def _report() -> dict[str, Any]:
    from aqd_deploy.reporting.report import REPORT_SCHEMA

    model = {
        "name": "m", "manifest": {}, "preprocessing": "text", "files": {"float": {"bytes": 1}},
        "weights": {"count": 1},
        "lowering": {"proven_share": 1.0}, "accuracy": {"float": {"AP": 0.5, "AP50": 0.5}},
        "agreement": {"program": {"differing": 0}}, "latency": {"measured": []}, "seconds": {"lower": 1.0},
    }  # fmt: skip
    return {"schema": REPORT_SCHEMA, "kind": "aqd-deploy report", "created": "x", "environment": {"cpu": "x",
    "threads": 1, "system": "x", "packages": {}}, "images": {"count": 1, "folder": "x"},
            "models": [model]}  # fmt: skip


def _read_report(folder: Path) -> None:
    from aqd_deploy.reporting import report

    document = report.read_report(folder / "report.json")
    report.markdown(document), report.terminal_table(document)
