"""A classifier of random weights, quantized by onnxruntime, through the command line: floats go in, floats
come out, and they are those that a float64 evaluation of the quantized file gives.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from float64_reference import Float64Network
from onnx import TensorProto, helper, numpy_helper

from aqd_deploy.cli.main import invoke

SHAPE = (1, 3, 24, 24)
CLASSES = 10


def float_classifier(*, softmax: bool) -> onnx.ModelProto:
    """Two strided convolutions, a depthwise one with ReLU6, the average of the map, a matrix product."""
    generator = np.random.default_rng(4)
    constants: dict[str, np.ndarray] = {"six": np.array(6, np.float32), "zero": np.array(0, np.float32)}

    def weights(name: str, *shape: int) -> list[str]:
        spread = np.sqrt(np.prod(shape[1:]))
        constants[name] = (generator.normal(size=shape) / spread).astype(np.float32)
        constants[f"{name}_bias"] = generator.normal(0, 0.1, shape[:1]).astype(np.float32)
        return [name, f"{name}_bias"]

    nodes = [
        helper.make_node("Conv", ["image", *weights("w1", 16, 3, 3, 3)], ["a"], strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", *weights("w2", 16, 1, 3, 3)], ["c"], pads=[1] * 4, group=16),
        helper.make_node("Clip", ["c", "zero", "six"], ["d"]),
        helper.make_node("Conv", ["d", *weights("w3", 32, 16, 1, 1)], ["e"], strides=[2, 2]),
        helper.make_node("Relu", ["e"], ["f"]),
        helper.make_node("GlobalAveragePool", ["f"], ["g"]),
        helper.make_node("Flatten", ["g"], ["h"]),
        helper.make_node("Gemm", ["h", *weights("w4", CLASSES, 32)], ["logits"], transB=1),
    ]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1))
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, [1, CLASSES])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


class _Images:
    """Calibration data for onnxruntime."""

    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        images = [{"image": generator.normal(size=SHAPE).astype(np.float32)} for _ in range(8)]
        self._images: Iterator[dict[str, np.ndarray]] = iter(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._images, None)


# Which operators are quantized: by default Softmax is, too.
FORMS: dict[str, tuple[str, dict]] = {
    "logits": ("logits", {}),
    "float softmax": (
        "probabilities", {"op_types_to_quantize": ["Conv", "Relu", "Clip", "GlobalAveragePool", "Gemm"]}
    ),
    "quantized softmax": ("probabilities", {}),
}  # fmt: skip


@pytest.fixture(scope="module", params=FORMS)
def files(request, tmp_path_factory) -> dict[str, Path]:
    """The quantized file, its integer file and a program, made by the command line, and its `output`."""
    from onnxruntime.quantization import QuantFormat, quantize_static

    folder = tmp_path_factory.mktemp("classifier")
    made = {name: folder / f"m.{name}" for name in ("float.onnx", "qdq.onnx", "int.onnx", "so")}
    output, settings = FORMS[request.param]
    onnx.save(float_classifier(softmax=output == "probabilities"), made["float.onnx"])
    quantize_static(
        str(made["float.onnx"]), str(made["qdq.onnx"]), _Images(), quant_format=QuantFormat.QDQ,
        per_channel=True, **settings,
    )  # fmt: skip
    assert invoke(["lower", str(made["qdq.onnx"]), "-o", str(made["int.onnx"])]) == 0
    assert invoke(["compile", str(made["int.onnx"]), "-o", str(made["so"]), "--threads", "1"]) == 0
    return {**made, "output": Path(output)}


@pytest.mark.parametrize("seed", range(3))
def test_floats_in_and_out(files, seed, tmp_path, capsys):
    image = np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)
    np.save(tmp_path / "x.npy", image)
    words = ["run", str(files["so"]), "--input", str(tmp_path / "x.npy"), "--check", str(files["int.onnx"])]
    assert invoke([*words, "-o", str(tmp_path / "y.npz"), "--floats", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["check"]["differing"] == 0
    name = str(files["output"])
    assert document["outputs"][name] == {"dtype": "float32", "shape": [1, CLASSES]}
    with np.load(tmp_path / "y.npz") as values:
        given = values[name]
    expected = Float64Network(onnx.load(files["qdq.onnx"])).outputs({"image": image})[name]
    # float32 numbers that codes stand for, and onnxruntime's Softmax of them.
    assert np.allclose(given, expected, rtol=1e-5, atol=1e-6)
    assert len(set(given.ravel().tolist())) > 3


def test_integers_are_codes_by_default(files, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(SHAPE, np.float32))
    words = ["run", str(files["so"]), "--input", str(tmp_path / "x.npy"), "-o", str(tmp_path / "y.npz")]
    assert invoke(words) == 0
    with np.load(tmp_path / "y.npz") as values:
        (codes,) = values.values()
    assert codes.dtype in (np.uint8, np.int8, np.int32) and codes.shape == (1, CLASSES)


def test_inspect_shows_the_tail_where_there_is_one(files, capsys):
    assert invoke(["inspect", str(files["so"]), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert ("tail" in document) == (str(files["output"]) == "probabilities")
    if "tail" in document:
        assert document["tail"]["operators"]["Softmax"] == 1
