"""Moves every scale down past the real operations until it meets a quantizer or the end of the graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.integer.fixedpoint import float_above
from aqd_deploy.integer.ranges import Interval, concatenate
from aqd_deploy.integer.rational import SQRT_BITS, ChannelForm, total
from aqd_deploy.integer.staircase import staircases
from aqd_deploy.passes.codes import input_codes
from aqd_deploy.passes.constants import clip_bounds, finite_reals
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
from aqd_deploy.passes.geometry import square_pool
from aqd_deploy.passes.graph import Graph, Head, Node, Operation
from aqd_deploy.passes.integer_convolutions import accumulator_range
from aqd_deploy.passes.integer_operations import (
    Bias,
    Cast,
    ConvInteger,
    ConvOdd,
    Max,
    MultiplyShift,
    PadImage,
    SkipAdd,
)
from aqd_deploy.passes.numerics import EXACT, PAPER
from aqd_deploy.passes.operations import (
    STRUCTURAL,
    Add,
    BatchNormalization,
    Clip,
    Concat,
    Conv,
    DequantizeLinear,
    FileOperation,
    Identity,
    IntegerOperation,
    MaxPool,
    Mul,
    Quantize,
    QuantizeLinear,
    Relu,
    Resize,
    Scale,
    Staircase,
)
from aqd_deploy.passes.streams import StreamConstants, settle, skip_add


@dataclass(frozen=True)
class Scaled:
    """A real tensor as integers: `tensor` holds η, forms[c] says what it stands for.

    `error` [C] bounds, in units of η, how far the integers are from the real value that exact arithmetic
    gives with the same quantizer decisions before.
    """

    tensor: str
    forms: list[ChannelForm]
    error: np.ndarray


class MoveScales(Pass):
    """x = η·α + β is kept per channel as exact numbers; no operation below makes a new real tensor.

        η ── Scale ── BatchNormalization ── Quantize ── q        η ── Staircase ── q
        η ── Scale ── Add ── Relu ── y (output)                  η ── SkipAdd ── Max ── y
        ζ ── Scale ────┘                                         ζ ──────┘

    1. BatchNormalization (Eq. 5): α ← α·γ/σ, β ← (β − μ)·γ/σ + β_bn. Mul by a positive constant scales
       both; Add of a constant per channel moves β. Nothing is computed.
    2. Quantizer: the integers go on to it with α and β, which Requantize takes unrounded into its constants.
    3. Relu of a stream: the value is settled on integers, s = round(β/α) (Eq. 6), then max(η, 0).
    4. MaxPool of a stream: on the int32 integers, since x grows with η where α > 0; other channels are
       settled first. Resize and Concat: on the integers.
    5. Add: SkipAdd (Eq. 7-8), β of both sides unrounded in its offsets.
    6. Graph output: settled on integers (Eq. 6); α goes to the manifest.

    Paper numerics settles every batch norm (s rounded on its own), also in front of a quantizer.
    """

    name = "move_scales"

    def requires(self, state: Lowering) -> None:
        """Quantizers and convolutions on integers; the interval of every input."""
        none_left(state.graph, FileOperation, QuantizeLinear, DequantizeLinear, Conv)
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
        """RangeError where an integer could leave int32, UnsupportedModelError for what no case covers."""
        moving = _Moving(state.graph, state.numerics, PassResult(self.name))
        moving.run()
        return moving.result


class _Moving:
    """One run over a graph. `scaled` are the real tensors that were met, `dtypes` the integer ones."""

    def __init__(self, graph: Graph, numerics: str, result: PassResult) -> None:
        self.graph, self.numerics, self.result = graph, numerics, result
        self.scaled: dict[str, Scaled] = {}
        self.dtypes = input_codes(graph)
        self.nodes: list[Node] = []
        self.settled: dict[tuple[str, str], Scaled] = {}
        self.casts: dict[str, str] = {}
        self.cases: dict[type[Operation], Callable[[Node, Any], None]] = {
            Scale: self._scale,
            Quantize: self._quantize,
            BatchNormalization: self._batch_norm,
            Mul: self._mul,
            Relu: self._relu,
            Clip: self._clip,
            MaxPool: self._max_pool,
            Resize: self._resize,
            Concat: self._concat,
            Add: self._add,
            Identity: self._identity,
            ConvInteger: self._convolution,
            ConvOdd: self._convolution,
            PadImage: self._pad_image,
        }

    def run(self) -> None:
        """Moves the scales past every node, in order."""
        for node in self.graph.nodes:
            case = self.cases.get(type(node.op))
            if case is None:
                raise no_rule(MoveScales.name, node, list(self.cases))
            with arithmetic_of(node):
                if isinstance(node.op, STRUCTURAL) and all(name in self.dtypes for name in node.inputs):
                    case = self._structural
                case(node, node.op)
        outputs = [self._finish(name) for name in self.graph.outputs]
        self.graph.nodes = self.nodes
        self._name_outputs(outputs)
        self.graph.remove_dead()

    def _emit(self, node: Node, interval: Interval, dtype: str) -> None:
        self.nodes.append(node)
        self.graph.ranges[node.output] = interval
        self.graph.shapes.setdefault(node.output, self.graph.shapes.get(node.inputs[0], ()))
        self.dtypes[node.output] = dtype

    def _value(self, name: str, node: Node) -> Scaled:
        if name not in self.scaled:
            kind = "a float value that nothing quantized"
            if name in self.dtypes:
                kind = "codes that no DequantizeLinear reads"
            elif name in self.graph.constants:
                kind = "a constant"
            raise UnsupportedModelError(
                f"node {node.label}: {name} isn't a real value with integers behind it ({kind})",
                valid="values that come from a quantized convolution or a DequantizeLinear",
                next_command="aqd-deploy export CHECKPOINT.pt -o m.qdq.onnx, of a network trained with AQD",
            )
        return self.scaled[name]

    def _convolution(self, node: Node, op: ConvInteger | ConvOdd) -> None:
        self._emit(node, accumulator_range(node, op, self.graph.ranges[node.inputs[0]]), "int32")

    def _pad_image(self, node: Node, _: PadImage) -> None:
        """What it pads with is part of the interval."""
        inside, values = self.graph.ranges[node.inputs[0]], self.graph.constants[node.inputs[1]].ravel()
        self._emit(node, Interval(np.minimum(inside.lo, values), np.maximum(inside.hi, values)), "uint8")

    def _scale(self, node: Node, op: Scale) -> None:
        self.scaled[node.output] = Scaled(node.inputs[0], op.forms, np.zeros(len(op.forms)))

    def _identity(self, node: Node, _: Identity) -> None:
        self.scaled[node.output] = self._value(node.inputs[0], node)

    def _quantize(self, node: Node, op: Quantize) -> None:
        """Case 2."""
        value = self._value(node.inputs[0], node)
        quantizer = op.quantizer
        interval = self.graph.ranges[value.tensor]
        stairs = staircases(value.forms, quantizer, interval.lo, interval.hi)
        tensor = self._int32(value.tensor)
        if self.numerics == EXACT:
            low, high = stairs.codes()
            margin = 0 if quantizer.steps <= 15 else 1
            codes = Interval(low - margin, high + margin).clipped(quantizer.lo, quantizer.hi)
        else:
            codes = Interval.uniform(stairs.channels, quantizer.lo, quantizer.hi)
        staircase = Staircase(stairs, op.dtype, value.error * stairs.slope)
        self._emit(Node(staircase, [tensor], node.output, node.source), codes, op.dtype)

    def _batch_norm(self, node: Node, op: BatchNormalization) -> None:
        """Case 1, Eq. 5."""
        value = self._value(node.inputs[0], node)
        channels = len(value.forms)
        parameters = [
            finite_reals(self.graph, node, name, "parameter", channels) for name in node.inputs[1:5]
        ]
        forms = []
        for form, gamma, beta, mean, variance in zip(value.forms, *parameters, strict=True):
            v = total(variance, op.epsilon)
            if v.numerator <= 0:
                raise UnsupportedModelError(
                    f"batch norm {node.label}: variance + ε isn't positive",
                    received=float(v),
                    valid="a positive sum",
                )
            forms.append(form.batch_normed(gamma, beta, mean, v))
        error = value.error + self._first_sigma(value)
        self.scaled[node.output] = Scaled(value.tensor, forms, error)
        if self.numerics == PAPER:
            self.scaled[node.output] = self._settle(node.output, node)
        self.result.changed.append(f"{node.label}: batch norm into the constants behind it")

    def _first_sigma(self, value: Scaled) -> np.ndarray:
        """What a batch norm behind another one adds to the error: it takes the first σ to SQRT_BITS bits."""
        interval = self.graph.ranges[value.tensor]
        largest = np.maximum(abs(interval.lo), abs(interval.hi)).tolist()
        unit = Fraction(1, 1 << (SQRT_BITS - 1))
        return np.array(
            [
                float_above((eta + abs(form.b1 / form.a)) * unit) if form.irrational else 0.0
                for form, eta in zip(value.forms, largest, strict=True)
            ]
        )

    def _mul(self, node: Node, _: Mul) -> None:
        """Case 1."""
        name, factors = self._with_constant(node, "Mul")
        if min(factors) <= 0:
            raise UnsupportedModelError(
                f"node {node.label}: multiplication by {float(min(factors))}",
                valid="positive constants (FCOS level scales)",
            )
        value = self._value(name, node)
        forms = [form.scaled(factor) for form, factor in zip(value.forms, factors, strict=True)]
        self.scaled[node.output] = Scaled(value.tensor, forms, value.error)
        self.result.changed.append(f"{node.label}: factor {float(factors[0]):.6g} into the scale")

    def _with_constant(self, node: Node, op: str) -> tuple[str, list[Fraction]]:
        """The other operand and the constant per channel."""
        constants = [name for name in node.inputs if name in self.graph.constants]
        others = [name for name in node.inputs if name not in self.graph.constants]
        shape = self.graph.shapes[node.output]
        if len(constants) == 1 and len(others) == 1 and self.graph.shapes[others[0]] == shape:
            array = self.graph.constants[constants[0]]
            per_channel = array.ndim in (3, 4) and array.shape[-3:] == (shape[1], 1, 1)
            if array.size == 1 or per_channel:
                values = finite_reals(self.graph, node, constants[0], "operand", array.size)
                return others[0], values * (shape[1] // len(values))
        raise UnsupportedModelError(
            f"node {node.label}: {op} of two tensors or with an odd constant",
            received=" and ".join(str(list(self.graph.shapes.get(name, ()))) for name in node.inputs),
            valid=f"{op} with a finite constant, one or one per channel",
        )

    def _settle(self, name: str, node: Node) -> Scaled:
        """The real tensor `name` with β = 0 and α > 0 in every channel, on int32 integers."""
        value = self._value(name, node)
        if all(form.a > 0 and not form.b0 and not form.b1 for form in value.forms):
            self.result.left_alone.append(f"{node.label}: {name} is settled already, α > 0 and β = 0")
            return value
        key = (name, value.tensor)
        if key not in self.settled:
            constants = settle(value.forms, self.graph.ranges[value.tensor], self.numerics)
            tensor = value.tensor
            if constants.is_identity:
                self.result.left_alone.append(f"{node.label}: {name} is settled already, β rounds to 0")
            else:
                tensor = self._emit_settled(name, self._int32(tensor), constants, node)
            self.settled[key] = Scaled(
                tensor, constants.forms, value.error * constants.gain + constants.error
            )
        return self.settled[key]

    def _emit_settled(self, name: str, tensor: str, constants: StreamConstants, node: Node) -> str:
        output = self.graph.fresh(f"{name}_int")
        op = (Bias if constants.is_bias else MultiplyShift)(constants.constants, constants.error)
        new = Node(op, [tensor], output, node.source)
        self._emit(new, constants.interval.require_int32(node.label), "int32")
        reasons = constants.reasons()
        suffix = f" ({reasons})" if reasons else " (Eq. 6)"
        self.result.changed.append(f"{node.label}: {name} settled on integers by {op.name}{suffix}")
        return output

    def _int32(self, tensor: str) -> str:
        """The tensor as int32: a Cast where it holds 8 bits."""
        if self.dtypes[tensor] == "int32":
            return tensor
        if tensor not in self.casts:
            output = self.casts[tensor] = self.graph.fresh(f"{tensor}_s32")
            self._emit(Node(Cast(), [tensor], output, tensor), self.graph.ranges[tensor], "int32")
        return self.casts[tensor]

    def _relu(self, node: Node, _: Relu | Clip) -> None:
        """Case 3."""
        value = self._settle(node.inputs[0], node)
        interval = self.graph.ranges[value.tensor]
        tensor = value.tensor
        if interval.bounds[0] < 0:
            tensor = self.graph.fresh(f"{node.output}_int")
            new = Node(Max(), [self._int32(value.tensor)], tensor, node.source)
            self._emit(new, interval.clipped(0, 1 << 31), "int32")
        else:
            self.result.left_alone.append(f"{node.label}: no Max, its integers are never negative")
        self.scaled[node.output] = Scaled(tensor, value.forms, value.error)

    def _clip(self, node: Node, op: Clip) -> None:
        low, high = clip_bounds(self.graph, node)
        value = self._settle(node.inputs[0], node)
        interval = self.graph.ranges[value.tensor]
        tops = [form.alpha() * int(top) for form, top in zip(value.forms, interval.hi, strict=True)]
        if low == 0 and (high is None or max(tops) <= high):
            self._relu(node, op)
            return
        raise UnsupportedModelError(
            f"node {node.label}: Clip to [{low}, {high}] of a value that goes on as an integer stream",
            valid="ReLU there; Clip only in front of quantizers",
        )

    def _max_pool(self, node: Node, op: MaxPool) -> None:
        """Case 4."""
        value = self._value(node.inputs[0], node)
        if any(form.a <= 0 for form in value.forms):
            value = self._settle(node.inputs[0], node)
        on_codes = self.dtypes[value.tensor] != "int32"
        self._placed(node, op if on_codes else square_pool(node, op.window), value)

    def _resize(self, node: Node, op: Resize) -> None:
        """Case 4."""
        self._placed(node, op, self._value(node.inputs[0], node))

    def _placed(self, node: Node, op: Operation, value: Scaled) -> None:
        """The operation on the integers of `value`, which stand for what they stood for."""
        tensor = self.graph.fresh(f"{node.output}_int")
        self.graph.shapes[tensor] = self.graph.shapes[node.output]
        new = Node(op, [value.tensor], tensor, node.source)
        self._emit(new, self.graph.ranges[value.tensor], self.dtypes[value.tensor])
        self.scaled[node.output] = Scaled(tensor, value.forms, value.error)

    def _concat(self, node: Node, op: Concat) -> None:
        """Case 4: every channel keeps its own form."""
        values = [self._value(name, node) for name in node.inputs]
        tensors = [value.tensor for value in values]
        if len({self.dtypes[name] for name in tensors}) > 1:
            tensors = [self._int32(name) for name in tensors]
        output = self.graph.fresh(f"{node.output}_int")
        self.graph.shapes[output] = self.graph.shapes[node.output]
        interval = concatenate([self.graph.ranges[name] for name in tensors])
        self._emit(Node(op, tensors, output, node.source), interval, self.dtypes[tensors[0]])
        forms = [form for value in values for form in value.forms]
        self.scaled[node.output] = Scaled(output, forms, np.concatenate([v.error for v in values]))

    def _structural(self, node: Node, _: Operation) -> None:
        """Pooling, upsampling and concat that commute_quantizers left on integers."""
        interval = concatenate([self.graph.ranges[name] for name in node.inputs])
        self._emit(node, interval, self.dtypes[node.inputs[0]])

    def _add(self, node: Node, _: Add) -> None:
        """Case 5; a constant operand is case 1."""
        if any(name in self.graph.constants for name in node.inputs):
            name, offsets = self._with_constant(node, "Add")
            value = self._value(name, node)
            forms = [form.shifted(offset) for form, offset in zip(value.forms, offsets, strict=True)]
            self.scaled[node.output] = Scaled(value.tensor, forms, value.error)
            return
        first, second = (self._value(name, node) for name in node.inputs)
        shapes = [self.graph.shapes[name] for name in node.inputs]
        if shapes[0] != shapes[1]:
            raise UnsupportedModelError(
                f"node {node.label}: Add broadcasts {list(shapes[0])} and {list(shapes[1])}",
                valid="operands of one shape",
            )
        tensors = [self._int32(first.tensor), self._int32(second.tensor)]
        intervals = (self.graph.ranges[tensors[0]], self.graph.ranges[tensors[1]])
        left, right, total = skip_add((first.forms, second.forms), intervals, self.numerics)
        local = left.error + right.error
        error = local + first.error * left.gain + second.error * right.gain
        output = self.graph.fresh(f"{node.output}_int")
        self.graph.shapes[output] = self.graph.shapes[node.output]
        new = Node(SkipAdd(left, right, local, error), tensors, output, node.source)
        self._emit(new, total.require_int32(node.label), "int32")
        self.scaled[node.output] = Scaled(output, left.forms, error)
        self.result.changed.append(f"{node.label}: SkipAdd, error at most {local.max():.3g} output units")

    def _finish(self, name: str) -> str:
        """Case 6: the integer tensor of a graph output, and its scale for the manifest."""
        node = Node(Identity(), [name], name)
        with arithmetic_of(node):
            value = self._settle(name, node)
        self.graph.heads[name] = Head(value.forms, float(value.error.max()))
        return self._int32(value.tensor)

    def _name_outputs(self, tensors: list[str]) -> None:
        """Outputs keep the QDQ file's names; an integer tensor that is an output twice gets an Identity."""
        renamed: dict[str, str] = {}
        copies: list[Node] = []
        for name, tensor in zip(self.graph.outputs, tensors, strict=True):
            if tensor in renamed:
                copies.append(Node(Identity(), [renamed[tensor]], name, name))
            else:
                renamed[tensor] = name
            self.graph.ranges[name] = self.graph.ranges[tensor]
        for node in self.graph.nodes:
            node.inputs = [renamed.get(source, source) for source in node.inputs]
            node.output = renamed.get(node.output, node.output)
        self.graph.nodes += copies
