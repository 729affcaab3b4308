"""`inspect` on files that others write: inputs, kinds, and the bits of their weights."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from qdq_graphs import plain_graph

from aqd_deploy.passes.pipeline import lower
from aqd_deploy.reporting.inspection import inspect_file
from aqd_deploy.reporting.inspection_view import inspection_view

BYTES = np.arange(-8, 8, dtype=np.int8).reshape(1, 1, 4, 4)


def save(path, nodes, constants, *, listed=False, ir_version=8):
    """A file with an image and these nodes; `listed` names the constants among the inputs."""
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 4, 4])]
    if listed:
        inputs += [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in tensors]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    onnx.save(helper.make_model(graph, ir_version=ir_version), path)
    return path


def test_weights_that_are_named_among_the_inputs_are_none(tmp_path):
    nodes = [helper.make_node("Conv", ["image", "w"], ["y"])]
    path = save(tmp_path / "m.onnx", nodes, {"w": np.ones((1, 1, 3, 3), np.float32)}, listed=True,
                ir_version=3)  # fmt: skip
    document = inspect_file(path)
    assert [value["name"] for value in document["inputs"]] == ["image"]
    assert document["kind"] == "float" and document["weights"] == {"count": 9, "by_bits": {"float": 9}}


def test_half_precision(tmp_path):
    nodes = [helper.make_node("Conv", ["image", "w"], ["y"])]
    path = save(tmp_path / "m.onnx", nodes, {"w": np.ones((1, 1, 3, 3), np.float16)})
    document = inspect_file(path)
    assert document["kind"] == "float16" and document["weights"]["by_bits"] == {"float16": 9}
    assert "9 (float16)" in inspection_view(document)


@pytest.mark.parametrize(
    ("weights", "bits"),
    [
        (np.array([-127, 127, 0], np.int8), "8"),
        (np.array([-128, 0], np.int8), "8"),
        (np.array([-8, 7], np.int8), "4"),
        (np.array([-1, 0, 1], np.int8), "2"),
        (np.array([-3, 1, 3], np.int8), "2"),
        (np.array([0, 255], np.uint8), "8"),
        (np.array([0, 3], np.uint8), "8"),
        (np.array([-255, 255], np.int16), "8"),
    ],
)
def test_bits_behind_a_dequantizer(tmp_path, weights, bits):
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["f"]),
        helper.make_node("Conv", ["image", "f"], ["y"]),
    ]
    constants = {"w": weights.reshape(1, 1, 1, -1), "s": np.array(0.1, np.float32)}
    document = inspect_file(save(tmp_path / "m.onnx", nodes, constants))
    assert document["weights"]["by_bits"] == {bits: weights.size}


def test_operators_on_codes(tmp_path):
    words = ["xs", "xz", "w", "ws", "wz", "ys", "yz"]
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "xs", "xz"], ["q"]),
        helper.make_node("QLinearConv", ["q", *words], ["c"]),
        helper.make_node("DequantizeLinear", ["c", "ys", "yz"], ["y"]),
    ]
    constants = {name: np.array(0, np.uint8) if name[1] == "z" else np.array(1, np.float32) for name in words
                 if name != "w"}  # fmt: skip
    document = inspect_file(save(tmp_path / "m.onnx", nodes, {**constants, "w": BYTES}))
    assert document["kind"] == "qoperator" and document["weights"] == {"count": 16, "by_bits": {"4": 16}}


def test_quant_nodes_say_the_bits(tmp_path):
    nodes = [
        helper.make_node("Quant", ["w", "s", "z", "b"], ["f"], domain="qonnx.custom_op.general"),
        helper.make_node("Conv", ["image", "f"], ["y"]),
    ]
    numbers = {"s": 0.1, "z": 0, "b": 3}
    constants = {name: np.array(value, np.float32) for name, value in numbers.items()}
    document = inspect_file(save(tmp_path / "m.onnx", nodes, {**constants, "w": BYTES.astype(np.float32)}))
    assert document["kind"] == "qonnx" and document["weights"]["by_bits"] == {"3": 16}
    assert "16 (3 bits)" in inspection_view(document)


def test_an_integer_file_has_its_cost(tmp_path):
    onnx.save(lower(plain_graph(0, bits=4)).model, tmp_path / "m.int.onnx")
    document = inspect_file(tmp_path / "m.int.onnx")
    cost = document["cost"]
    assert set(cost["macs_by_bits"]) == {"4x4", "8x8"} and cost["peak_mb"] is None
    assert cost["file_bytes"] == document["bytes"]
    counts = document["weights"]["by_bits"]
    assert cost["weights_bytes_by_bits"] == {"8": counts["8"], "4": counts["4"] / 2}
