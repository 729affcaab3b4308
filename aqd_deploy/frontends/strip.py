"""QDQ ONNX → the float network it simulates, for comparing with runtimes that start from float models.

1. The uint8 image and its DequantizeLinear become a float32 input of the same name, already mean-subtracted.
2. QuantizeLinear → Clip → DequantizeLinear on activations become nothing.
3. Weights become float initializers with their dequantized values; a shared one stays shared.
4. BatchNormalization behind a Conv is folded into its weight and bias. Levels that share a head's weight
   get one folded weight each, as any float export of the network has.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from aqd_deploy.errors import UnsupportedModelError


def strip_quantization(qdq: ModelProto) -> ModelProto:
    """The float32 network of a canonical QDQ file (docs/qdq-form.md); the input model stays unchanged.

    Input `image` is float32 [1, 3, H, W], (pixel − mean)/std; outputs keep their names. Raises
    UnsupportedModelError where the image is not dequantized first, or a constant is not dequantized from an
    initializer.
    """
    return _Stripper(qdq).run()


class _Stripper:
    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.values: dict[str, np.ndarray] = {}
        self.aliases: dict[str, str] = {}
        self.nodes: list[NodeProto] = []

    def run(self) -> ModelProto:
        image = self._input()
        for node in self.model.graph.node:
            self._visit(node, image)
        nodes = self._fold_batch_norms()
        used = {name for node in nodes for name in node.input}
        weights = [
            numpy_helper.from_array(value, name) for name, value in self.values.items() if name in used
        ]
        weights += [
            tensor for name, tensor in self.constants.items() if name in used and name not in self.values
        ]
        graph = helper.make_graph(
            nodes,
            f"{self.model.graph.name}_float",
            [image],
            list(self.model.graph.output),
            initializer=weights,
        )
        opset = [entry for entry in self.model.opset_import if entry.domain == ""]
        stripped = helper.make_model(graph, opset_imports=opset, ir_version=self.model.ir_version)
        helper.set_model_props(stripped, {entry.key: entry.value for entry in self.model.metadata_props})
        onnx.checker.check_model(stripped)
        return stripped

    def _input(self) -> onnx.ValueInfoProto:
        """Rule 1: the float input that takes the place of the uint8 image."""
        (source,) = self.model.graph.input
        readers = [node for node in self.model.graph.node if source.name in node.input]
        if len(readers) != 1 or readers[0].op_type != "DequantizeLinear":
            raise UnsupportedModelError(
                "the image is not dequantized first, so this is not a canonical QDQ file",
                received=", ".join(node.op_type for node in readers) or "an unused input",
                next_command="aqd-deploy export CHECKPOINT -o m.qdq.onnx",
            )
        shape = [dimension.dim_value for dimension in source.type.tensor_type.shape.dim]
        return helper.make_tensor_value_info(source.name, TensorProto.FLOAT, shape)

    def _visit(self, node: NodeProto, image: onnx.ValueInfoProto) -> None:
        if node.op_type == "QuantizeLinear" or (node.op_type == "Clip" and node.input[0] in self.aliases):
            self.aliases[node.output[0]] = self._resolve(node.input[0])
        elif node.op_type == "Clip" and self._is_constant(node.input[0]):
            bounds = (self._array(name) for name in node.input[1:3])
            self.values[node.output[0]] = np.clip(self._array(node.input[0]), *bounds)
        elif node.op_type == "DequantizeLinear":
            self._dequantize(node, image)
        else:
            copy = NodeProto()
            copy.CopyFrom(node)
            copy.input[:] = [self._resolve(name) for name in node.input]
            self.nodes.append(copy)

    def _dequantize(self, node: NodeProto, image: onnx.ValueInfoProto) -> None:
        """Rules 2 and 3."""
        source = node.input[0]
        if source == image.name or source in self.aliases:
            self.aliases[node.output[0]] = self._resolve(source)
            return
        if not self._is_constant(source):
            raise UnsupportedModelError(
                "DequantizeLinear of a tensor that was not quantized", received=node.name
            )
        values, scale = self._array(source).astype(np.float32), self._array(node.input[1])
        if len(node.input) > 2:
            values = values - _along(self._array(node.input[2]).astype(np.float32), values.ndim, _axis(node))
        self.values[node.output[0]] = values * _along(scale, values.ndim, _axis(node))

    def _fold_batch_norms(self) -> list[NodeProto]:
        """Rule 4. A BatchNormalization that is not behind a Conv of its own stays."""
        producers = {node.output[0]: node for node in self.nodes}
        readers: dict[str, int] = {}
        for node in self.nodes:
            for name in node.input:
                readers[name] = readers.get(name, 0) + 1
        kept: list[NodeProto] = []
        for node in self.nodes:
            conv = producers.get(node.input[0]) if node.op_type == "BatchNormalization" else None
            if conv is not None and conv.op_type == "Conv" and readers[conv.output[0]] == 1:
                self._fold(conv, node)
            else:
                kept.append(node)
        return kept

    def _fold(self, conv: NodeProto, norm: NodeProto) -> None:
        gamma, beta, mean, variance = (self._array(name).astype(np.float64) for name in norm.input[1:5])
        epsilon = next((a.f for a in norm.attribute if a.name == "epsilon"), 1e-5)
        factor = gamma / np.sqrt(variance + epsilon)
        weight = self._array(conv.input[1]).astype(np.float64)
        bias = self._array(conv.input[2]).astype(np.float64) if len(conv.input) > 2 else 0.0
        names = [f"{norm.output[0]}.folded_weight", f"{norm.output[0]}.folded_bias"]
        self.values[names[0]] = (weight * _along(factor, weight.ndim, 0)).astype(np.float32)
        self.values[names[1]] = (beta + (bias - mean) * factor).astype(np.float32)
        conv.input[:] = [conv.input[0], *names]
        conv.output[0] = norm.output[0]

    def _resolve(self, name: str) -> str:
        return self.aliases.get(name, name)

    def _is_constant(self, name: str) -> bool:
        return name in self.values or name in self.constants

    def _array(self, name: str) -> np.ndarray:
        return self.values[name] if name in self.values else numpy_helper.to_array(self.constants[name])


def _axis(node: NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)


def _along(values: np.ndarray, rank: int, axis: int) -> np.ndarray:
    """A vector shaped to lie along `axis` of a tensor of that rank; a scalar as it is."""
    return values if values.ndim == 0 else values.reshape([-1 if i == axis else 1 for i in range(rank)])
