"""Moves every scale down past the real operations until it meets a quantizer or the end of the graph."""

from __future__ import annotations

from fractions import Fraction

from aqd_deploy.integer.rational import ChannelForm
from aqd_deploy.passes.codes import STRUCTURAL
from aqd_deploy.passes.contract import (
    Lowering,
    Pass,
    PassError,
    PassResult,
    all_of,
    arithmetic_of,
    no_rule,
    none_left,
)
from aqd_deploy.passes.graph import Graph, Head, Node
from aqd_deploy.passes.operations import (
    DequantizeLinear,
    FileOperation,
    Identity,
    IntegerOperation,
    QuantizeLinear,
    Staircase,
)
from aqd_deploy.passes.rules import RULES
from aqd_deploy.passes.rules.structure import on_codes
from aqd_deploy.passes.values import Values


class MoveScales(Pass):
    """x = η·α + β is kept per channel as exact numbers; no operation below makes a new real tensor.

        η ── Scale ── BatchNormalization ── Quantize ── q        η ── Staircase ── q
        η ── Scale ── Add ── Relu ── y (output)                  η ── SkipAdd ── Max ── y
        ζ ── Scale ────┘                                         ζ ──────┘
        codes ── Scale ── Conv ── y                              codes ── ConvInteger ── η, α·α_w, bias

    The rules of `rules/`, one file a kind of operation:

    1. Affine functions of each element: BatchNormalization (Eq. 5), products with and sums of constants move
       α and β. Nothing is computed.
    2. Quantizer: the integers go on to it with α and β, which Requantize takes unrounded into its constants.
    3. Relu of a stream: the value is settled on integers, s = round(β/α) (Eq. 6), then max(η, 0).
    4. MaxPool of a stream: on the int32 integers, since x grows with η where α > 0; other channels are
       settled first. What only selects or places elements (Resize, Concat, Slice, …): on the integers.
    5. Add of streams: SkipAdd (Eq. 7-8), β of both sides unrounded in its offsets.
    6. Graph output: settled on integers (Eq. 6); α goes to the manifest. Codes stay codes.
    7. Conv of codes: ConvInteger, or ConvOdd for 8-bit odd weights; zero points go into it or into β.

    Paper numerics settles every batch norm (s rounded on its own), also in front of a quantizer.
    """

    name = "move_scales"

    def requires(self, state: Lowering) -> None:
        """Folded quantizers; the interval of every input."""
        none_left(state.graph, FileOperation, QuantizeLinear, DequantizeLinear)
        for name in state.graph.inputs:
            if name not in state.graph.ranges:
                raise PassError(f"{name} has no interval")

    def ensures(self, state: Lowering) -> None:
        """Integer tensors only, each of a proven interval within int32; every output has a scale."""
        graph = state.graph
        all_of(graph, IntegerOperation, Staircase)
        for node in graph.nodes:
            low, high = graph.ranges[node.output].bounds if node.output in graph.ranges else (-1, 1 << 31)
            if not -(1 << 31) <= low <= high < 1 << 31:
                raise PassError(f"{node.label} has no interval within int32")
        if graph.heads.keys() != set(graph.outputs):
            raise PassError("an output has no scale")

    def run(self, state: Lowering) -> PassResult:
        """RangeError where an integer could leave int32, UnsupportedModelError for what no rule covers."""
        graph = state.graph
        values = Values(graph, state.numerics, PassResult(self.name))
        propagate(values)
        outputs = [_finish(values, name) for name in graph.outputs]
        graph.nodes = values.nodes
        renamed = _name_outputs(graph, outputs)
        graph.meanings = {renamed.get(name, name): each for name, each in values.meanings().items()}
        graph.remove_dead()
        return values.result


def propagate(values: Values) -> None:
    """Moves `values` past every node of its graph, in order."""
    for node in values.graph.nodes:
        rule = RULES.get(type(node.op))
        if rule is None:
            raise no_rule(MoveScales.name, node, list(RULES))
        with arithmetic_of(node):
            if isinstance(node.op, STRUCTURAL) and all(name in values.dtypes for name in node.inputs):
                on_codes(values, node, node.op)
            else:
                rule.move(values, node, node.op)


def _finish(values: Values, name: str) -> str:
    """Case 6: the integer tensor of a graph output, and its scale for the manifest."""
    node = Node(Identity(), [name], name)
    if name in values.dtypes:
        # The file's output is codes itself.
        channels = values.graph.shapes[name][1]
        values.graph.heads[name] = Head([ChannelForm(Fraction(1))] * channels, 0.0, values.dtypes[name])
        return name
    value = values.value(name, node)
    zero = value.zero_point()
    # An output is computed, so an input becomes an int32 stream.
    plain = values.holds_codes(value) and value.tensor not in values.graph.inputs
    if plain and zero is not None and all(form.a > 0 for form in value.forms):
        values.graph.heads[name] = Head(value.forms, 0.0, values.dtypes[value.tensor], zero)
        return value.tensor
    with arithmetic_of(node):
        value = values.settle(name, node)
    values.graph.heads[name] = Head(value.forms, float(value.error.max()))
    return values.int32(value.tensor)


def _name_outputs(graph: Graph, tensors: list[str]) -> dict[str, str]:
    """Outputs keep the QDQ file's names; an integer tensor that is an output twice gets an Identity. Returns
    the new names by the old ones.
    """
    renamed: dict[str, str] = {}
    copies: list[Node] = []
    for name, tensor in zip(graph.outputs, tensors, strict=True):
        if tensor in renamed:
            copies.append(Node(Identity(), [renamed[tensor]], name, name))
        else:
            renamed[tensor] = name
        graph.ranges[name] = graph.ranges[tensor]
    for node in graph.nodes:
        node.inputs = [renamed.get(source, source) for source in node.inputs]
        node.output = renamed.get(node.output, node.output)
    graph.nodes += copies
    return renamed
