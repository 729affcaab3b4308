"""How the codes of quantized tensors are stored, and which tensors of a graph hold codes."""

from __future__ import annotations

from onnx import TensorProto

from aqd_deploy.passes.foreign_operations import DepthToSpace, Gather, Lookup, Rearrange, Slice
from aqd_deploy.passes.graph import Graph, Node
from aqd_deploy.passes.operations import Concat, MaxPool, Pad, Quantize, Resize
from aqd_deploy.passes.slices import QuantizedFunction

STRUCTURAL = (MaxPool, Resize, Concat, Slice, Gather, DepthToSpace, Rearrange, Pad)
"""Operations that only select or place elements: the same on real and on integer tensors."""


def codes_of(graph: Graph) -> dict[str, str]:
    """How the codes of every integer tensor are stored, `uint8` or `int8`; real tensors are left out."""
    codes = input_codes(graph)
    for node in graph.nodes:
        note_codes(node, codes)
    return codes


def input_codes(graph: Graph) -> dict[str, str]:
    """How the graph's inputs are stored."""
    return {name: "int8" if kind == TensorProto.INT8 else "uint8" for name, kind in graph.inputs.items()}


def reach(graph: Graph, name: str) -> tuple[int, int]:
    """The lowest and highest code that the integer tensor `name` can hold."""
    return _reach(graph, graph.producers(), name)


def _reach(graph: Graph, producers: dict[str, Node], name: str) -> tuple[int, int]:
    node = producers.get(name)
    if node is None:
        return graph.ranges[name].bounds
    if isinstance(node.op, (Quantize, QuantizedFunction)):
        return node.op.quantizer.lo, node.op.quantizer.hi
    if isinstance(node.op, Lookup):
        return int(node.op.table.min()), int(node.op.table.max())
    ends = [_reach(graph, producers, source) for source in node.inputs]
    if isinstance(node.op, Pad):
        ends += [(int(value), int(value)) for value in node.op.values]
    return min(low for low, _ in ends), max(high for _, high in ends)


def note_codes(node: Node, codes: dict[str, str]) -> None:
    """Enters the output of `node` into the table of codes_of where it holds codes.

    Codes come from a graph input, a Quantize node or a table, through structural nodes; a Concat that joins
    both kinds makes none.
    """
    kinds = set()
    if isinstance(node.op, (Quantize, QuantizedFunction)):
        kinds = {node.op.dtype}
    elif isinstance(node.op, Lookup):
        kinds = {str(node.op.table.dtype)}
    elif isinstance(node.op, STRUCTURAL):
        kinds = {codes.get(name, "") for name in node.inputs}
    if len(kinds) == 1 and "" not in kinds:
        codes[node.output] = kinds.pop()
