"""What the propagation of values knows while it walks a graph, and what every rule does with it.

The rules (`rules/`, one file a kind of operation) read values here and emit integer nodes; none makes a real
tensor.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.integer.ranges import Interval
from aqd_deploy.integer.rational import ChannelForm
from aqd_deploy.passes.codes import input_codes
from aqd_deploy.passes.contract import COMPLETE, PassResult
from aqd_deploy.passes.graph import Graph, Meaning, Node, Operation
from aqd_deploy.passes.integer_operations import Bias, Cast, MultiplyShift, SkipAdd
from aqd_deploy.passes.streams import StreamConstants, settle, settle_blocks, skip_add

CODE_BOUNDS = {"uint8": (0, 255), "int8": (-128, 127)}
"""What a tensor of codes can hold."""


@dataclass(frozen=True)
class Scaled:
    """A real tensor as integers: `tensor` holds η, forms[c] says what it stands for.

    `error` [C] bounds, in units of η, how far the integers are from the real value that exact arithmetic
    gives with the same quantizer decisions before.
    """

    tensor: str
    forms: list[ChannelForm]
    error: np.ndarray

    def scaled(self, factors: list[Fraction]) -> Scaled:
        """Each channel times its factor."""
        forms = [form.scaled(factor) for form, factor in zip(self.forms, factors, strict=True)]
        return replace(self, forms=forms)

    def shifted(self, offsets: list[Fraction]) -> Scaled:
        """Each channel plus its offset."""
        forms = [form.shifted(offset) for form, offset in zip(self.forms, offsets, strict=True)]
        return replace(self, forms=forms)

    def zeros(self) -> list[Fraction] | None:
        """The integer that stands for 0 in each channel, as a rational; None where a channel has none."""
        forms = [form.rationalised() for form in self.forms]
        return None if any(form.a == 0 for form in forms) else [-form.b0 / form.a for form in forms]

    def zero_point(self) -> int | None:
        """The integer that stands for 0 in every channel; None where there is none."""
        zeros = self.zeros()
        uniform = zeros is not None and len(set(zeros)) == 1 and zeros[0].denominator == 1
        return int(zeros[0]) if zeros is not None and uniform else None


@dataclass(frozen=True)
class Sum:
    """A real tensor, the sum of two tensors of codes that nothing has added yet; `node` is its Add."""

    node: Node
    terms: tuple[Scaled, Scaled]


class Values:
    """One run over a graph. `scaled` are the real tensors that were met, `sums` those that are not computed
    unless something needs them as one tensor, `dtypes` the integer ones.
    """

    def __init__(self, graph: Graph, numerics: str, result: PassResult) -> None:
        self.graph, self.numerics, self.result = graph, numerics, result
        self.scaled: dict[str, Scaled] = {}
        self.sums: dict[str, Sum] = {}
        self.dtypes = input_codes(graph)
        self.nodes: list[Node] = []
        self.stored: dict[str, np.ndarray] = {}
        self.shared: dict[str, str] = {}
        self.read = {name for node in graph.nodes for name in node.inputs}
        self._settled: dict[tuple[str, str, int], Scaled] = {}
        self._casts: dict[str, str] = {}

    def emit(self, node: Node, interval: Interval, dtype: str) -> None:
        """Appends an integer node; its output has the shape of its first input unless another is known."""
        self.nodes.append(node)
        self.graph.ranges[node.output] = interval
        self.graph.shapes.setdefault(node.output, self.graph.shapes.get(node.inputs[0], ()))
        self.dtypes[node.output] = dtype

    def value(self, name: str, node: Node) -> Scaled:
        """The real tensor `name` as one of integers; UnsupportedModelError, for `node`, where it is none."""
        if name in self.sums and name not in self.scaled:
            pending = self.sums[name]
            self.scaled[name] = self.added(pending.node, name, *pending.terms)
        if name not in self.scaled:
            kind = "a float value that nothing quantized"
            if name in self.dtypes:
                kind = "codes that no DequantizeLinear reads"
            elif self.graph.is_constant(name):
                kind = "a constant"
            raise UnsupportedModelError(
                f"node {node.label}: {name} isn't a real value with integers behind it ({kind})",
                valid="values that come from a quantized convolution or a DequantizeLinear",
                next_command=COMPLETE,
            )
        return self.scaled[name]

    def meanings(self) -> dict[str, Meaning]:
        """Of every integer tensor that stands for a real one; of several, for the last."""
        settled = ((name, value) for (name, _, _), value in self._settled.items())
        return {
            value.tensor: Meaning(name, value.forms, value.error)
            for name, value in (*self.scaled.items(), *settled)
        }

    def holds_codes(self, value: Scaled) -> bool:
        """Whether the integers are 8-bit codes."""
        return self.dtypes[value.tensor] != "int32"

    def constants(self, node: Node, base: str, values: np.ndarray) -> str:
        """A new constant of the graph for `node`, named after `base`."""
        name = self.graph.fresh(f"{node.output}_{base}")
        self.graph.constants[name] = values
        return name

    def int32(self, tensor: str) -> str:
        """The tensor as int32: a Cast where it holds 8 bits."""
        if self.dtypes[tensor] == "int32":
            return tensor
        if tensor not in self._casts:
            output = self._casts[tensor] = self.graph.fresh(f"{tensor}_s32")
            self.emit(Node(Cast(), [tensor], output, tensor), self.graph.ranges[tensor], "int32")
        return self._casts[tensor]

    def place(self, node: Node, op: Operation, value: Scaled, interval: Interval | None = None) -> None:
        """An operation that only selects or places integers of `value`, which keep their meaning."""
        tensor = self.graph.fresh(f"{node.output}_int")
        self.graph.shapes[tensor] = self.graph.shapes[node.output]
        interval = interval or self.graph.ranges[value.tensor]
        self.emit(Node(op, [value.tensor], tensor, node.source), interval, self.dtypes[value.tensor])
        self.scaled[node.output] = replace(value, tensor=tensor)

    def settle(self, name: str, node: Node, blocks: list[list[int]] | None = None, room: int = 1) -> Scaled:
        """The real tensor `name` with β = 0 and α > 0 in every channel, on int32 integers (Eq. 6); with one
        scale for all channels of each of `blocks`, or with `room` for the sum of so many.
        """
        value = self.value(name, node)
        if blocks is not None:
            constants = settle_blocks(value.forms, self.graph.ranges[value.tensor], self.numerics, blocks)
            tensor = self._emit_settled(name, self.int32(value.tensor), constants, node)
            return Scaled(tensor, constants.forms, value.error * constants.gain + constants.error)
        if room == 1 and all(form.a > 0 and not form.b0 and not form.b1 for form in value.forms):
            self.result.left_alone.append(f"{node.label}: {name} is settled already, α > 0 and β = 0")
            return value
        key = (name, value.tensor, room)
        if key not in self._settled:
            constants = settle(value.forms, self.graph.ranges[value.tensor], self.numerics, room)
            tensor = value.tensor
            if constants.is_identity:
                self.result.left_alone.append(f"{node.label}: {name} is settled already, β rounds to 0")
            else:
                tensor = self._emit_settled(name, self.int32(tensor), constants, node)
            self._settled[key] = Scaled(
                tensor, constants.forms, value.error * constants.gain + constants.error
            )
        return self._settled[key]

    def _emit_settled(self, name: str, tensor: str, constants: StreamConstants, node: Node) -> str:
        output = self.graph.fresh(f"{name}_int")
        op = (Bias if constants.is_bias else MultiplyShift)(constants.constants, constants.error)
        new = Node(op, [tensor], output, node.source)
        self.emit(new, constants.interval.require_int32(node.label), "int32")
        reasons = constants.reasons()
        suffix = f" ({reasons})" if reasons else " (Eq. 6)"
        self.result.changed.append(f"{node.label}: {name} settled on integers by {op.name}{suffix}")
        return output

    def added(self, node: Node, name: str, first: Scaled, second: Scaled) -> Scaled:
        """The sum `name` of two values as a stream: SkipAdd (Eq. 7-8), β of both unrounded in its offsets."""
        tensors = [self.int32(first.tensor), self.int32(second.tensor)]
        intervals = (self.graph.ranges[tensors[0]], self.graph.ranges[tensors[1]])
        left, right, total = skip_add((first.forms, second.forms), intervals, self.numerics)
        local = left.error + right.error
        error = local + first.error * left.gain + second.error * right.gain
        output = self.graph.fresh(f"{name}_int")
        self.graph.shapes[output] = self.graph.shapes[name]
        new = Node(SkipAdd(left, right, local, error), tensors, output, node.source)
        self.emit(new, total.require_int32(node.label), "int32")
        self.result.changed.append(f"{node.label}: SkipAdd, error at most {local.max():.3g} output units")
        return Scaled(output, left.forms, error)
