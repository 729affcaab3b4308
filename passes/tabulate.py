"""Turns functions of codes, from a DequantizeLinear to a quantizer, into tables."""

from __future__ import annotations

from fractions import Fraction

from aqd_deploy.passes.codes import codes_of, reach
from aqd_deploy.passes.contract import Lowering, Pass, PassError, PassResult, none_left
from aqd_deploy.passes.foreign_operations import Lookup
from aqd_deploy.passes.graph import Graph, Node
from aqd_deploy.passes.operations import (
    DequantizeLinear,
    FileOperation,
    Quantize,
    QuantizeLinear,
    Scale,
)
from aqd_deploy.passes.slices import (
    NoSliceError,
    QuantizedFunction,
    RealFunction,
    Slice,
    Slices,
    exactly,
    not_uniform,
)
from aqd_deploy.passes.values import CODE_BOUNDS


class Tabulate(Pass):
    """A quantizer whose value is a function f of the codes of one 8-bit tensor has 256 values: a table.

        codes ── Scale ─┬─ Sigmoid ── Mul ── Quantize ── q        codes ── Lookup(table) ── q
                        └──────────────┘

    f is made of functions of each element (`functions.py`), sums, products and quotients, of the same tensor
    or with one constant for all elements, and clips. table[x] = clip(round_half_even(f(x) / step) + zero
    point, lo, hi), in exact numbers (docs/proofs.md).

    1. The functions between the Scale and the quantizer become a `Lookup`, also where there is none: the
       codes of one step from those of another.
    2. A table behind a table of the same codes is one table: SiLU as Sigmoid → Q → DQ → Mul → Q.
    3. A table that changes nothing is left out.
    4. Functions of a tensor of another kind, such as the accumulators of a convolution, become one quantizer
       whose code may fall as well as rise; those that are only sums, products and clips stay.

    5. Functions that go on without a quantizer, to a sum, an average or an output, are one function, which
       becomes a stream. Leaky ReLU is left alone, and so is what its rule makes a sum of.

    A function without a finite value at a code that can occur (√ of a negative number) is left alone, as is
    one with a constant a channel.
    """

    name = "tabulate"

    def requires(self, state: Lowering) -> None:
        """Folded quantizers."""
        none_left(state.graph, FileOperation, QuantizeLinear, DequantizeLinear)

    def ensures(self, state: Lowering) -> None:
        """No quantizer of dequantized codes."""
        producers = state.graph.producers()
        for node in state.graph.nodes:
            source = producers.get(node.inputs[0])
            uniform = isinstance(node.op, Quantize) and not node.op.channels
            if not uniform or source is None or not isinstance(source.op, Scale):
                continue
            if not_uniform(state.graph, source) is None:
                raise PassError(f"{node.label} is a function of {source.inputs[0]}")

    def run(self, state: Lowering) -> PassResult:
        """Every quantizer in order, so that the tables in front are known."""
        graph, result = state.graph, PassResult(self.name)
        slices, codes = Slices(graph), codes_of(graph)
        renamed: dict[str, str] = {}
        kept = []
        for node in graph.nodes:
            node.inputs = [renamed.get(name, name) for name in node.inputs]
            if isinstance(node.op, Quantize) and not node.op.channels:
                try:
                    found = slices.of(node.inputs[0])
                    if found.source not in codes:
                        _take_stream(graph, node, node.op, found, result)
                    elif _take_codes(graph, node, node.op, found, codes[found.source], result):
                        renamed[node.output] = found.source
                        continue
                except NoSliceError as reason:
                    result.left_alone += [f"{node.label}: {reason}"] if str(reason) else []
            kept.append(node)
        graph.nodes = kept
        graph.remove_dead()
        _take_reals(graph, result)
        return result


def _take_reals(graph: Graph, result: PassResult) -> None:
    """Case 5."""
    slices = Slices(graph)
    found: dict[str, Slice] = {}
    for node in graph.nodes:
        try:
            each = slices.of(node.output)
        except NoSliceError:
            continue
        if each.needs_a_table(graph):
            found[node.output] = each
    consumers = graph.consumers()
    for index, node in enumerate(graph.nodes):
        if node.output not in found:
            continue
        each, readers = found[node.output], consumers.get(node.output, [])
        inside = [found[reader.output].nodes if reader.output in found else () for reader in readers]
        if node.output in graph.outputs or not all(node in nodes for nodes in inside):
            # A new node: the slices behind it still ask the old one.
            graph.nodes[index] = Node(RealFunction(each), [each.source], node.output, node.source)
            result.changed.append(f"{node.label}: {each.told} of {each.source}, as a stream")
    graph.remove_dead()


def _lookup(table: list[int], low: int, source: str, dtype: str) -> Lookup:
    """The table of the codes from `low` on; codes that can't occur have the nearest one's entry."""
    first, last = CODE_BOUNDS[source]
    before, behind = low - first, last - low - len(table) + 1
    return Lookup.by_code([table[0]] * before + table + [table[-1]] * behind, source, dtype)


def _take_codes(
    graph: Graph, node: Node, op: Quantize, found: Slice, source: str, result: PassResult
) -> bool:
    """Cases 1 and 2; True for case 3. NoSliceError where a code has no finite value."""
    low, high = reach(graph, found.source)
    function = exactly(graph, found)
    table = []
    for code in range(low, high + 1):
        try:
            table.append(op.quantizer.code(function(Fraction(code))))
        except ArithmeticError as error:
            raise NoSliceError(
                f"{found.told} of the code {code} of {found.source} has no finite value ({error})"
            ) from error
    if table == list(range(low, high + 1)) and source == op.dtype and node.output not in graph.outputs:
        result.changed.append(f"{node.label}: the codes of {found.source} as they are")
        return True
    node.op, node.inputs = _lookup(table, low, source, op.dtype), [found.source]
    result.changed.append(f"{node.label}: a table of {found.told} of {found.source}")
    return False


def _take_stream(graph: Graph, node: Node, op: Quantize, found: Slice, result: PassResult) -> None:
    """Case 4."""
    if found.is_affine(graph):
        result.left_alone.append(f"{node.label}: {found.told} moves into its constants")
        return
    node.op, node.inputs = QuantizedFunction(found, op.quantizer, op.dtype), [found.source]
    result.changed.append(f"{node.label}: {found.told} of {found.source}, by thresholds")
