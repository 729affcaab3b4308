"""A small integer classifier as lowering leaves it: float input, codes as output, a softmax as its tail."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper
from small_models import UINT8, ModelWriter

from aqd_deploy.integer.manifest import MANIFEST_KEY
from aqd_deploy.integer.tail import tail_path

CLASSES, SIDE = 5, 6
IN_SCALE, IN_ZERO, OUT_SCALE, OUT_ZERO = 0.03125, 121, 0.25, 7
INPUT, OUTPUT = "image", "t1"


def integer_classifier(tail: onnx.ModelProto | None = None) -> onnx.ModelProto:
    """uint8 [1, 3, 6, 6] → a convolution over the whole map → codes uint8 [1, 5, 1, 1], [1, 5] to people."""
    w = ModelWriter(seed=3)
    image = w.image(INPUT, 3, SIDE, SIDE)
    zero = w.constant(np.array(IN_ZERO, np.uint8))
    sums = w._standard("ConvInteger", [image, w.weight(CLASSES, 3, SIDE, 4), zero])
    codes = w.requantize(sums, CLASSES, 36, hi=255)
    assert codes == OUTPUT
    w.output(codes, [1, CLASSES, 1, 1], UINT8)
    manifest: dict = {
        "schema": 1,
        "name": "classifier",
        "inputs": {INPUT: {"scale": IN_SCALE, "zero_point": IN_ZERO, "dtype": "uint8"}},
        "outputs": {OUTPUT: {"scale": OUT_SCALE, "zero_point": OUT_ZERO, "lo": 0, "hi": 255}},
        "shapes": {OUTPUT: [1, CLASSES]},
    }
    if tail is not None:
        digest = hashlib.sha256(tail.SerializeToString(deterministic=True)).hexdigest()
        entry = {"scale": OUT_SCALE, "zero_point": OUT_ZERO}
        manifest["tail"] = {"inputs": {OUTPUT: entry}, "sha256": digest}
    return w.model(manifest)


def softmax_tail(name: str = "probabilities") -> onnx.ModelProto:
    """Softmax over the classes."""
    shape = [1, CLASSES]
    graph = helper.make_graph(
        [helper.make_node("Softmax", [OUTPUT], [name], axis=1)],
        "tail",
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def write_classifier(path: Path, tail: onnx.ModelProto | None = None) -> Path:
    """The integer file at `path`, and its tail beside it."""
    path.write_bytes(integer_classifier(tail).SerializeToString(deterministic=True))
    if tail is not None:
        tail_path(path).write_bytes(tail.SerializeToString(deterministic=True))
    return path


def float_image(seed: int = 0) -> np.ndarray:
    """Floats some of which are beyond the codes, and some half-way between two."""
    steps = np.random.default_rng(seed).integers(-300, 300, (1, 3, SIDE, SIDE))
    return (steps * (IN_SCALE / 2)).astype(np.float32)


def image_codes(values: np.ndarray) -> np.ndarray:
    """The codes of `float_image`, by whole numbers alone: its floats are half steps."""
    halves = np.round(values / (IN_SCALE / 2)).astype(np.int64)
    down, odd = np.divmod(halves, 2)
    return np.clip(down + odd * (down % 2) + IN_ZERO, 0, 255).astype(np.uint8)


def manifest_of(model: onnx.ModelProto) -> dict:
    """The manifest as JSON says it."""
    return json.loads(next(p.value for p in model.metadata_props if p.key == MANIFEST_KEY))
