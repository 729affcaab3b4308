"""Damaged archives of arrays, and damaged images."""

from __future__ import annotations

import io
import random
import struct
import zipfile

import mutations
import numpy as np
from mutations import damage_bytes
from PIL import Image
from subject import SIDE, Subject


def arrays() -> bytes:
    buffer = io.BytesIO()
    values = np.random.default_rng(1).integers(0, 256, (1, 3, SIDE, SIDE), np.uint8)
    np.savez(buffer, image=values)
    return buffer.getvalue()


def array_files(ready: dict[str, bytes]) -> list[Subject]:
    needed = {name: ready[name] for name in ("sound.onnx", "sound.so")}
    single = io.BytesIO()
    np.save(single, np.load(io.BytesIO(ready["sound.npz"]))["image"])
    return [
        Subject("arrays", "x.npz", ready["sound.npz"], _damaged_npz, _readers("{x.npz}"), needed, 3),
        Subject("array", "x.npy", single.getvalue(), _damaged_npy, _readers("{x.npy}"), needed),
    ]


def _readers(name: str) -> tuple[tuple[str, ...], ...]:
    return tuple(
        ("run", model, "--input", name, "--threads", "1", "-o", "{out.npz}")
        for model in ("{sound.onnx}", "{sound.so}")
    )


def _damaged_npy(data: bytes, rng: random.Random) -> bytes:
    return _array(np.load(io.BytesIO(data)).tobytes(), rng)


def _array(body: bytes, rng: random.Random) -> bytes:
    """An array that is no longer what its header says."""
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
    return start + struct.pack(form, min(length, 65535)) + text.encode() + b"\n" + body


def _damaged_npz(data: bytes, rng: random.Random) -> bytes:
    """An archive whose member is no longer what its header, or its directory, says."""
    array = _array(np.load(io.BytesIO(data))["image"].tobytes(), rng)
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


def image(form: str, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    values = np.random.default_rng(2).integers(0, 256, (20, 24, 3), np.uint8)
    picture = Image.fromarray(values)
    if mode == "I;16":
        picture = Image.fromarray(values[..., 0].astype(np.uint16) * 200)
    else:
        picture = picture.convert(mode)
    picture.save(buffer, form)
    return buffer.getvalue()


def images(ready: dict[str, bytes]) -> list[Subject]:
    reader = ("detect", "{sound.onnx}", "{%s}", "-o", "{out}", "--threads", "1")
    kinds = [("PNG", "RGB"), ("PNG", "P"), ("PNG", "I;16"), ("JPEG", "RGB"), ("JPEG", "CMYK"), ("GIF", "P"),
             ("TIFF", "RGB"), ("TIFF", "I;16"), ("BMP", "RGB"), ("WEBP", "RGBA"), ("PPM", "RGB")]  # fmt: skip
    made = []
    for form, mode in kinds:
        name = f"a.{form.lower()}"
        damage = mutations.png_with_numbers if form == "PNG" else mutations.extreme
        readers = (tuple(part % name if "%s" in part else part for part in reader),)
        made.append(Subject(f"{form} {mode}", name, image(form, mode), damage, readers,
                            {"sound.onnx": ready["sound.onnx"]}))  # fmt: skip
    return made
