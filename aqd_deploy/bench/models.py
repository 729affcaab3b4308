"""The models that peers run: the float network behind a program, and its INT8 form by onnxruntime's
quantizer.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto

from aqd_deploy.errors import AqdError, ModelFileError
from aqd_deploy.frontends.kinds import kind_of
from aqd_deploy.integer.files import load_onnx
from aqd_deploy.passes.read_qdq import read_manifest


def find_qdq(program: Path, manifest: dict[str, Any], explicit: Path | None = None) -> Path:
    """The QDQ file a program was made from.

    `explicit` if given; else the QDQ file beside the program whose SHA-256 the manifest records; else the
    one beside it of the same stem whose manifest has the same name. Raises AqdError where there is none.
    """
    if explicit is not None:
        if kind_of(load_onnx(explicit)) != "qdq":
            raise ModelFileError("this is no QDQ file", received=str(explicit), valid="what `export` writes")
        return explicit
    recorded = manifest.get("program", {}).get("sha256", {}).get("source")
    beside = sorted(program.parent.glob("*.onnx"))
    for path in beside:
        if recorded is not None and _sha256(path) == recorded and kind_of(load_onnx(path)) == "qdq":
            return path
    for path in beside:
        if path.name.split(".")[0] == program.name.split(".")[0]:
            model = load_onnx(path)
            if kind_of(model) == "qdq" and read_manifest(model).get("name") == manifest.get("name"):
                return path
    raise AqdError(
        "the QDQ file that the program was made from is not beside it, so there is nothing to give to a peer",
        received=str(program),
        next_command=f"aqd-deploy bench {program} --model m.qdq.onnx --against onnxruntime",
    )


def quantize_int8(model: ModelProto, calibration: list[np.ndarray], folder: Path) -> Path:
    """onnxruntime's own INT8 QDQ form of a float model, written into `folder`.

    `quantize_static` with per-channel int8 weights and uint8 activations, ranges by minimum and maximum over
    `calibration` (inputs float32 [1, 3, H, W]).
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        """Feeds the calibration inputs once."""

        def __init__(self) -> None:
            self.remaining = iter(calibration)

        def get_next(self) -> dict[str, np.ndarray] | None:
            array = next(self.remaining, None)
            return None if array is None else {model.graph.input[0].name: array}

    source, target = folder / "float_inferred.onnx", folder / "int8.onnx"
    onnx.save(onnx.shape_inference.infer_shapes(model), source)
    with _quiet():
        quantize_static(
            source,
            target,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    return target


def calibration_inputs(
    manifest: dict[str, Any], pixels: list[np.ndarray], shape: tuple[int, ...]
) -> list[np.ndarray]:
    """Network inputs float32 for the float model: (pixel − mean)/std of uint8 images of `shape` [1, 3, H, W].

    Without images, textures generated with fixed seeds.
    """
    from aqd_deploy.bench.textures import textures

    if not pixels:
        pixels = list(textures(2, shape[2], shape[3])[:, None])
    entry = manifest.get("preprocessing", {})
    mean = np.asarray(entry.get("mean", [0, 0, 0]), np.float32).reshape(1, -1, 1, 1)
    std = np.asarray(entry.get("std", [1, 1, 1]), np.float32).reshape(1, -1, 1, 1)
    return [(image.astype(np.float32) - mean) / std for image in pixels]


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantizer logs advice on its root logger that no user of `bench` can follow."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _sha256(path: Path) -> str:
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
