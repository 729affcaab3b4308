"""Builds a QDQ graph node by node: names, initializers, as docs/qdq-form.md defines them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 21
IR_VERSION = 10


class GraphBuilder:
    """Collects nodes and initializers; every method that adds a node returns the name of its output
    tensor.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self._used: set[str] = set()

    def unique(self, name: str) -> str:
        """`name`, or `name_2`, `name_3`, ... where it is taken."""
        candidate, count = name, 1
        while candidate in self._used:
            count += 1
            candidate = f"{name}_{count}"
        self._used.add(candidate)
        return candidate

    def constant(self, name: str, value: np.ndarray) -> str:
        """An initializer; one of the same name must hold the same value and is used again."""
        tensor = numpy_helper.from_array(np.ascontiguousarray(value), name)
        present = self.initializers.get(name)
        if present is not None and present.SerializeToString() != tensor.SerializeToString():
            raise ValueError(f"two different constants are named {name}")
        self.initializers[name] = tensor
        return name

    def add(self, op: str, inputs: list[str], name: str, **attributes: Any) -> str:
        """A node with one output, named after it."""
        output = self.unique(name)
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def image(self, mean: list[int], std: list[float], height: int, width: int) -> str:
        """The uint8 image input [1, C, H, W] and its DequantizeLinear: (pixel − mean)/std, per channel."""
        shape = [1, len(mean), height, width]
        self.inputs.append(helper.make_tensor_value_info("image", TensorProto.UINT8, shape))
        self._used.add("image")
        scale = self.constant("image_scale", (1.0 / np.asarray(std, np.float64)).astype(np.float32))
        zero_point = self.constant("image_mean", np.asarray(mean, np.uint8))
        return self.add("DequantizeLinear", ["image", scale, zero_point], "image_value", axis=1)

    def quantize_activation(self, x: str, step: float, bits: int, name: str, zero_point: int = 0) -> str:
        """Eq. 2: QuantizeLinear, Clip (absent at 8 bits), DequantizeLinear, with one scalar step and one zero
        point.
        """
        scale = self.constant(f"{name}.step", np.asarray(step, np.float32))
        name_of_zero = f"zero_u8_at_{zero_point}" if zero_point else "zero_u8"
        zero = self.constant(name_of_zero, np.asarray(zero_point, np.uint8))
        quantized = self.add("QuantizeLinear", [x, scale, zero], f"{name}.q")
        if bits < 8:
            top = self.constant(f"top_u{bits}", np.asarray(2**bits - 1, np.uint8))
            bottom = self.constant("zero_u8", np.asarray(0, np.uint8))
            quantized = self.add("Clip", [quantized, bottom, top], f"{name}.clip")
        return self.add("DequantizeLinear", [quantized, scale, zero], f"{name}.value")

    def quantized_weight(self, q: np.ndarray, step: float | np.ndarray, bits: int, name: str) -> str:
        """Eq. 3: the odd integers q (any integer dtype) as int8 with a Clip, or as int16 at 8 bits,
        dequantized.
        """
        scale = self.constant(f"{name}.step", np.asarray(step, np.float32))
        per_channel = {"axis": 0} if np.ndim(step) else {}
        if bits == 8:
            weight = self.constant(name, q.astype(np.int16))
            zero = self.constant(f"{name}.zero", np.zeros(np.shape(step), np.int16))
            return self.add("DequantizeLinear", [weight, scale, zero], f"{name}.value", **per_channel)
        top_code = 2**bits - 1
        weight = self.constant(name, q.astype(np.int8))
        low = self.constant(f"low_s{bits}", np.asarray(-top_code, np.int8))
        high = self.constant(f"high_s{bits}", np.asarray(top_code, np.int8))
        zero = self.constant(f"{name}.zero", np.zeros(np.shape(step), np.int8))
        clipped = self.add("Clip", [weight, low, high], f"{name}.clip")
        return self.add("DequantizeLinear", [clipped, scale, zero], f"{name}.value", **per_channel)

    def upsample(self, x: str, factor: int, name: str) -> str:
        """Nearest upsampling by a whole factor."""
        scales = self.constant(f"upsample_{factor}", np.asarray([1, 1, factor, factor], np.float32))
        return self.add(
            "Resize", [x, "", scales], name, mode="nearest", nearest_mode="floor",
            coordinate_transformation_mode="asymmetric",
        )  # fmt: skip

    def output(self, x: str, name: str, shape: list[int]) -> None:
        """Make tensor `x`, an output of the last rule, a graph output called `name`."""
        node = next(node for node in reversed(self.nodes) if x in node.output)
        if any(x in other.input for other in self.nodes):
            raise ValueError(f"{x} is read inside the graph and cannot be renamed to the output {name}")
        node.output[list(node.output).index(x)] = name
        self._used.add(name)
        self.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def model(self, metadata: dict[str, str]) -> onnx.ModelProto:
        """The checked model, with inferred shapes."""
        graph = helper.make_graph(
            self.nodes, self.name, self.inputs, self.outputs, initializer=list(self.initializers.values())
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="aqd-deploy",
        )
        helper.set_model_props(model, metadata)
        onnx.checker.check_model(model)
        return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
