"""Writes the graph as integer ONNX."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from aqd_deploy.integer import dialect
from aqd_deploy.integer.fixedpoint import MultiplyShift
from aqd_deploy.integer.manifest import MANIFEST_KEY
from aqd_deploy.passes.graph import Graph, Node

_TYPES = {"uint8": TensorProto.UINT8, "int8": TensorProto.INT8, "int32": TensorProto.INT32}
_CONV_ATTRIBUTES = ("strides", "pads", "dilations", "group")


class WriteInteger:
    """One ONNX node per graph node; constants become initializers, ranges and scales go to the manifest."""

    name = "write_integer"
    requires = "solve_requantize"
    ensures = "an integer ONNX model of the dialect"

    def run(self, graph: Graph, manifest: dict) -> ModelProto:
        """The model; `manifest` is completed with outputs and ranges and stored in its metadata."""
        self.graph = graph
        self.initializers: dict[str, np.ndarray] = {}
        self.made: dict[str, str] = {}
        writers: dict[str, Callable[[Node], NodeProto]] = {
            "Bias": self._bias,
            "Cast": self._cast,
            "Concat": lambda n: dialect.standard_node("Concat", n.inputs, n.output, axis=1),
            "ConvInteger": self._conv_integer,
            "ConvOdd": self._conv_odd,
            "Identity": lambda n: dialect.standard_node("Identity", n.inputs, n.output),
            "Max": self._max,
            "MaxPool": self._max_pool,
            "MultiplyShift": self._multiply_shift,
            "PadImage": self._pad_image,
            "Requantize": self._requantize,
            "Resize": self._resize,
            "SkipAdd": self._skip_add,
            "Threshold": self._threshold,
        }
        nodes = [writers.get(node.op, self._pool_function)(node) for node in graph.nodes]
        inputs = [
            helper.make_tensor_value_info(name, kind, graph.shapes[name])
            for name, kind in graph.inputs.items()
        ]
        outputs = [
            helper.make_tensor_value_info(name, TensorProto.INT32, graph.shapes[name])
            for name in graph.outputs
        ]
        tensors = [numpy_helper.from_array(array, name) for name, array in self.initializers.items()]
        model = dialect.make_model(nodes, inputs, outputs, tensors, graph.name)
        self._add_manifest(model, manifest)
        return model

    def _constant(self, base: str, values: np.ndarray) -> str:
        """A new initializer; its name is `base` unless the graph has that already."""
        name = self.graph.fresh(base)
        self.initializers[name] = np.asarray(values, order="C")
        return name

    def _once(self, base: str, values: np.ndarray) -> str:
        """A new initializer that all nodes share that ask for `base`."""
        if base not in self.made:
            self.made[base] = self._constant(base, values)
        return self.made[base]

    def _shared(self, name: str) -> str:
        """A constant of the graph, stored once."""
        self.initializers[name] = np.asarray(self.graph.constants[name], order="C")
        return name

    def _shift_constants(
        self, output: str, constants: Sequence[MultiplyShift], suffix: str = ""
    ) -> list[str]:
        return [
            self._constant(f"{output}_c{suffix}", dialect.per_channel([m.c for m in constants], np.int64)),
            self._constant(f"{output}_B{suffix}", dialect.per_channel([m.b for m in constants], np.int64)),
            self._constant(f"{output}_d{suffix}", dialect.per_channel([m.d for m in constants], np.uint64)),
        ]

    def _conv_integer(self, node: Node) -> NodeProto:
        inputs = [node.inputs[0], *(self._shared(name) for name in node.inputs[1:])]
        attributes = {name: node.attributes[name] for name in _CONV_ATTRIBUTES}
        return dialect.standard_node("ConvInteger", inputs, node.output, **attributes)

    def _conv_odd(self, node: Node) -> NodeProto:
        inputs = [node.inputs[0], *(self._shared(name) for name in node.inputs[1:])]
        attributes = {name: node.attributes[name] for name in _CONV_ATTRIBUTES}
        return dialect.node("ConvOdd", inputs, node.output, **attributes)

    def _pad_image(self, node: Node) -> NodeProto:
        inputs = [node.inputs[0], self._shared(node.inputs[1])]
        return dialect.node("PadImage", inputs, node.output, pads=node.attributes["pads"])

    def _bias(self, node: Node) -> NodeProto:
        bias = dialect.per_channel([m.b for m in node.attributes["constants"]], np.int32)
        return dialect.standard_node(
            "Add", [node.inputs[0], self._constant(f"{node.output}_bias", bias)], node.output
        )

    def _multiply_shift(self, node: Node) -> NodeProto:
        names = self._shift_constants(node.output, node.attributes["constants"])
        return dialect.node("MultiplyShift", [node.inputs[0], *names], node.output)

    def _requantize(self, node: Node) -> NodeProto:
        quantizer = node.attributes["stairs"].quantizer
        names = self._shift_constants(node.output, node.attributes["solution"].constants)
        return dialect.node(
            "Requantize",
            [node.inputs[0], *names],
            node.output,
            lo=quantizer.lo,
            hi=quantizer.hi,
            to=_TYPES[node.attributes["dtype"]],
        )

    def _threshold(self, node: Node) -> NodeProto:
        stairs = node.attributes["stairs"]
        sign = self._constant(f"{node.output}_sign", dialect.per_channel(stairs.sign.tolist(), np.int32))
        table = stairs.thresholds.T[:, None, :, None, None].astype(np.int32)
        names = [sign, self._constant(f"{node.output}_T", table)]
        return dialect.node(
            "Threshold",
            [node.inputs[0], *names],
            node.output,
            lo=stairs.quantizer.lo,
            to=_TYPES[node.attributes["dtype"]],
        )

    def _skip_add(self, node: Node) -> NodeProto:
        left = self._shift_constants(node.output, node.attributes["left"].constants, "a")
        right = self._shift_constants(node.output, node.attributes["right"].constants, "b")
        return dialect.node("SkipAdd", [*node.inputs, *left, *right], node.output)

    def _max(self, node: Node) -> NodeProto:
        zero = self._once("zero", np.array(0, dtype=np.int32))
        return dialect.standard_node("Max", [node.inputs[0], zero], node.output)

    def _max_pool(self, node: Node) -> NodeProto:
        return dialect.standard_node("MaxPool", node.inputs, node.output, **node.attributes)

    def _pool_function(self, node: Node) -> NodeProto:
        return dialect.node(node.op, node.inputs, node.output)

    def _resize(self, node: Node) -> NodeProto:
        vertical, horizontal = node.attributes["factors"]
        scales = np.array([1, 1, vertical, horizontal], dtype=np.float32)
        name = self._once(f"scales_{vertical}x{horizontal}", scales)
        return dialect.standard_node(
            "Resize",
            [node.inputs[0], "", name],
            node.output,
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )

    def _cast(self, node: Node) -> NodeProto:
        return dialect.standard_node("Cast", node.inputs, node.output, to=TensorProto.INT32)

    def _add_manifest(self, model: ModelProto, manifest: dict) -> None:
        outputs = {}
        for name in self.graph.outputs:
            scales = [float(form.alpha()) for form in self.graph.output_forms[name]]
            lo, hi = self.graph.ranges[name].bounds
            outputs[name] = {"scale": scales[:1] if len(set(scales)) == 1 else scales, "lo": lo, "hi": hi}
        named = [*self.graph.inputs, *(node.output for node in self.graph.nodes)]
        bounds = {name: self.graph.ranges[name].bounds for name in named}
        manifest["outputs"] = outputs
        manifest["ranges"] = {name: {"lo": lo, "hi": hi} for name, (lo, hi) in bounds.items()}
        onnx.helper.set_model_props(model, {MANIFEST_KEY: json.dumps(manifest)})
