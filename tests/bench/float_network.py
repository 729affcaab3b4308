"""A small float network as `write_network` leaves it: every kind of operation a detector has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from aqd_deploy.bench.network import Network
from aqd_deploy.detection.textures import textures

SIZE, CHANNELS = 32, 16


def small_network(folder: Path) -> Network:
    """Conv, ReLU, max-pool, skip-add, nearest upsampling; two outputs."""
    generator = np.random.default_rng(3)

    def conv(name: str, source: str, inputs: int, stride: int = 1) -> tuple[onnx.NodeProto, list]:
        weight = generator.normal(0, 0.1, (CHANNELS, inputs, 3, 3)).astype(np.float32)
        bias = generator.normal(0, 0.1, CHANNELS).astype(np.float32)
        tensors = [numpy_helper.from_array(weight, f"{name}.w"), numpy_helper.from_array(bias, f"{name}.b")]
        node = helper.make_node(
            "Conv", [source, f"{name}.w", f"{name}.b"], [name], name, pads=[1] * 4, strides=[stride] * 2
        )
        return node, tensors

    stem, a = conv("stem", "image", 3, 2)
    inner, b = conv("inner", "pooled", CHANNELS)
    head, c = conv("head", "joined", CHANNELS)
    scales = numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")
    nodes = [
        stem,
        helper.make_node("Relu", ["stem"], ["active"], "relu"),
        helper.make_node("MaxPool", ["active"], ["pooled"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        inner,
        helper.make_node(
            "Resize", ["inner", "", "scales"], ["large"], "up", mode="nearest",
            coordinate_transformation_mode="asymmetric", nearest_mode="floor",
        ),
        helper.make_node("Add", ["large", "active"], ["joined"], "add"),
        head,
    ]  # fmt: skip
    half, quarter = SIZE // 2, SIZE // 4
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
        [
            helper.make_tensor_value_info("inner", TensorProto.FLOAT, [1, CHANNELS, quarter, quarter]),
            helper.make_tensor_value_info("head", TensorProto.FLOAT, [1, CHANNELS, half, half]),
        ],
        initializer=[*a, *b, *c, scales],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, folder / "float.onnx")
    np.savez(
        folder / "inputs.npz",
        pixels=textures(2, SIZE, SIZE),
        mean=np.array([104, 116, 124], np.float32),
        std=np.array([58, 57, 57], np.float32),
    )
    return Network(folder)
