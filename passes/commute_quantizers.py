"""Moves quantizers up, past everything that commutes with a monotone staircase."""

from __future__ import annotations

from dataclasses import replace

from aqd_deploy.passes.constants import clip_bounds
from aqd_deploy.passes.graph import STRUCTURAL, Graph, Node, Pass, PassResult, codes_of, topological


class CommuteQuantizers(Pass):
    """A quantizer Q is non-decreasing and acts on each element alone, so

    1. Q(Relu(x)) = clip(Q(x), Q(0), ·): ReLU becomes the lower end of the clip. Likewise Clip (ReLU6): both
       ends.
    2. Q(MaxPool(x)) = MaxPool(Q(x)): pooling runs on 8 bits.
    3. Q(Resize(x)) = Resize(Q(x)) for nearest neighbour.
    4. Q(Concat(x, y)) = Concat(Q(x), Q(y)).
    5. Two quantizers of one tensor with the same step and range are one.

    A tensor that also goes on as an integer stream (skip-add, head) is left alone: its stream is computed
    anyway, and requantizing that costs less than a second way from the accumulators.
    """

    name = "commute_quantizers"
    requires = "fold_quantizers"
    ensures = "no ReLU, pooling, upsampling or concat of a real tensor that only quantizers read"

    def run(self, graph: Graph) -> PassResult:
        """Repeats the cases until none applies."""
        result = PassResult(self.name)
        while self._sweep(graph, result):
            pass
        self._merge(graph, result)
        consumers = graph.consumers()
        for node in graph.nodes:
            readers = consumers.get(node.output, [])
            if node.op in ("Relu", "Clip", *STRUCTURAL) and any(r.op == "Quantize" for r in readers):
                others = [r.label for r in readers if r.op != "Quantize"] or ["the graph's output"]
                result.left_alone.append(
                    f"{node.label} ({node.op}): {', '.join(others)} reads it as an integer stream"
                )
        return result

    def _sweep(self, graph: Graph, result: PassResult) -> bool:
        consumers = graph.consumers()
        codes = codes_of(graph)
        for node in graph.nodes:
            if node.op not in ("Relu", "Clip", *STRUCTURAL) or node.output in codes:
                continue
            readers = consumers.get(node.output, [])
            if not readers or node.output in graph.outputs or any(r.op != "Quantize" for r in readers):
                continue
            if node.op in ("Relu", "Clip"):
                for quantize in readers:
                    self._absorb(graph, node, quantize)
            else:
                self._exchange(graph, node, readers)
            names = ", ".join(reader.label for reader in readers)
            result.changed.append(f"{node.label} ({node.op}) behind quantizer {names}")
            graph.remove_dead()
            return True
        return False

    def _absorb(self, graph: Graph, node: Node, quantize: Node) -> None:
        """Case 1."""
        quantizer = quantize.attributes["quantizer"]
        low, high = clip_bounds(graph, node)
        lo = quantizer.lo if low is None else quantizer.level(low)
        hi = quantizer.hi if high is None else quantizer.level(high)
        quantize.attributes = {**quantize.attributes, "quantizer": replace(quantizer, lo=lo, hi=hi)}
        quantize.inputs = [node.inputs[0]]

    def _exchange(self, graph: Graph, node: Node, readers: list[Node]) -> None:
        """Cases 2 to 4: one quantizer per input, then the operation on integers, under the quantizer's old
        name.
        """
        nodes = [n for n in graph.nodes if n not in readers]
        count = 1 if node.op != "Concat" else len(node.inputs)
        for quantize in readers:
            inputs = []
            for i, source in enumerate(node.inputs[:count]):
                name = graph.fresh(f"{quantize.output}_in{i}")
                graph.shapes[name] = graph.shapes[source]
                nodes.append(Node("Quantize", [source], name, dict(quantize.attributes), quantize.source))
                inputs.append(name)
            rest = node.inputs[count:]
            nodes.append(Node(node.op, [*inputs, *rest], quantize.output, dict(node.attributes), node.source))
        graph.nodes = topological(nodes, set(graph.inputs) | set(graph.constants))

    def _merge(self, graph: Graph, result: PassResult) -> None:
        """Case 5, to a fixed point: merging can make the operations behind equal as well."""
        first: dict[tuple, str] = {}
        renamed: dict[str, str] = {}
        kept = []
        for node in graph.nodes:
            node.inputs = [renamed.get(name, name) for name in node.inputs]
            if node.op == "Quantize":
                key = (node.inputs[0], node.attributes["quantizer"], node.attributes["dtype"])
                if key in first:
                    renamed[node.output] = first[key]
                    result.changed.append(f"{node.label}: same quantizer as {first[key]}")
                    continue
                first[key] = node.output
            kept.append(node)
        graph.nodes = kept
