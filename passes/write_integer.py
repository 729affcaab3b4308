"""Writes the graph as integer ONNX."""

from __future__ import annotations

import json

import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper

from aqd_deploy.integer import dialect
from aqd_deploy.integer.manifest import MANIFEST_KEY
from aqd_deploy.passes.contract import Lowering, Pass, PassError, PassResult, all_of
from aqd_deploy.passes.graph import Graph, Node
from aqd_deploy.passes.operations import IntegerOperation
from aqd_deploy.passes.report import build_report, summary
from aqd_deploy.passes.writer import TYPES, Writer


class WriteInteger(Pass):
    """An integer ONNX file of the dialect, its manifest, and the report of what is proven of it.

        η ── Requantize(c, B, d) ── q        η ── aqd.integer.Requantize ── q, initializers q_c, q_B, q_d

    1. One ONNX node per graph node, as its operation writes itself; constants become initializers.
    2. The manifest of the QDQ file goes on, with the outputs' scales and bounds, every tensor's range, and
       what was proven.
    """

    name = "write_integer"

    def requires(self, state: Lowering) -> None:
        """Operations that the file can have, all tensors with their interval, all outputs with a scale."""
        graph = state.graph
        all_of(graph, IntegerOperation)
        for name in [*graph.inputs, *(node.output for node in graph.nodes)]:
            if name not in graph.ranges:
                raise PassError(f"{name} has no interval")
        for name in graph.outputs:
            if name not in graph.heads:
                raise PassError(f"output {name} has no scale")

    def ensures(self, state: Lowering) -> None:
        """A file with the graph's nodes, inputs and outputs, and a manifest."""
        graph, written = state.graph, state.integer
        if len(written.graph.node) != len(graph.nodes):
            raise PassError(f"{len(graph.nodes)} nodes became {len(written.graph.node)}")
        named = [value.name for value in (*written.graph.input, *written.graph.output)]
        if named != [*graph.inputs, *graph.outputs]:
            raise PassError(f"inputs and outputs became {', '.join(named)}")
        if MANIFEST_KEY not in {entry.key for entry in written.metadata_props}:
            raise PassError("the file has no manifest")

    def run(self, state: Lowering) -> PassResult:
        """Always writes."""
        report = build_report(state.graph, state.numerics)
        model = _model(state.graph)
        manifest = {**state.manifest, "lowering": summary(report), **_outputs_and_ranges(state.graph)}
        onnx.helper.set_model_props(model, {MANIFEST_KEY: json.dumps(manifest)})
        state.write(model, report)
        return PassResult(self.name, [f"{len(model.graph.node)} nodes"])


def _model(graph: Graph) -> ModelProto:
    """Case 1."""
    writer = Writer(graph)
    nodes = [_written(node, writer) for node in graph.nodes]
    inputs = [
        helper.make_tensor_value_info(name, kind, graph.shapes[name]) for name, kind in graph.inputs.items()
    ]
    outputs = [
        helper.make_tensor_value_info(name, TYPES[graph.heads[name].dtype], graph.shapes[name])
        for name in graph.outputs
    ]
    tensors = [numpy_helper.from_array(array, name) for name, array in writer.initializers.items()]
    return dialect.make_model(nodes, inputs, outputs, tensors, graph.name)


def _written(node: Node, writer: Writer) -> NodeProto:
    if not isinstance(node.op, IntegerOperation):
        raise PassError(f"{node.op.name} {node.label} is left")
    return node.op.write(node, writer)


def _outputs_and_ranges(graph: Graph) -> dict[str, dict]:
    """Case 2."""
    outputs: dict[str, dict] = {}
    for name in graph.outputs:
        head = graph.heads[name]
        scales = [float(form.alpha()) for form in head.forms]
        lo, hi = graph.ranges[name].bounds
        outputs[name] = {"scale": scales[:1] if len(set(scales)) == 1 else scales, "lo": lo, "hi": hi}
        if head.dtype != "int32":
            outputs[name]["zero_point"] = head.zero_point
    named = [*graph.inputs, *(node.output for node in graph.nodes)]
    bounds = {name: graph.ranges[name].bounds for name in named}
    return {"outputs": outputs, "ranges": {name: {"lo": lo, "hi": hi} for name, (lo, hi) in bounds.items()}}
