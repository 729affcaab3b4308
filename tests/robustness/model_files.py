"""Damaged ONNX files: QDQ and integer models, with external data, with a manifest."""

from __future__ import annotations

import json
import random

import mutations
import onnx
from mutations import damage_bytes, damage_document, json_text
from subject import TARGET, Subject


def models(qdq: onnx.ModelProto, integer: onnx.ModelProto, ready: dict[str, bytes]) -> list[Subject]:
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
