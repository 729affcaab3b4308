"""Turns QuantizeLinear, Clip and DequantizeLinear into quantizers, scales and integer weights."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from aqd_deploy.errors import ScaleError, UnsupportedModelError
from aqd_deploy.integer.rational import ChannelForm, exact_list
from aqd_deploy.integer.staircase import Quantizer
from aqd_deploy.integer.types import element_name
from aqd_deploy.passes.codes import input_codes, note_codes
from aqd_deploy.passes.constants import clip_bounds, constant
from aqd_deploy.passes.contract import Lowering, Pass, PassError, PassResult, none_left
from aqd_deploy.passes.graph import Graph, Node, Quantized
from aqd_deploy.passes.operations import (
    Clip,
    DequantizeLinear,
    FileOperation,
    Quantize,
    QuantizeLinear,
    Scale,
    Staircase,
)
from aqd_deploy.passes.operators import REAL

_CODES = {
    "uint8": (0, 255),
    "int8": (-128, 127),
    "uint4": (0, 15),
    "int4": (-8, 7),
    "int16": (-32768, 32767),
    "uint16": (0, 65535),
}
_STORAGE = {"uint8": "uint8", "int8": "int8", "uint4": "uint8", "int4": "int8"}


class FoldQuantizers(Pass):
    """Quantizers by their meaning; every constant is taken as the exact rational it is.

        x ── QuantizeLinear ── Clip ── DequantizeLinear ── Conv        x ── Quantize ── Scale ── Conv
        w ──────────────────── Clip ── DequantizeLinear ───┘           integers q and their scales ─┘

    1. Constants (weights by Eq. 3, biases, operands of Add and Mul): DequantizeLinear of them, with or
       without a Clip, becomes integers less their zero points and scales along one axis. A float constant
       behind QuantizeLinear is quantized here, as onnxruntime would.
    2. Activations (Eq. 2): QuantizeLinear, then Clip if there is one, becomes `Quantize`:
       clip(round_half_even(x / step) + zero_point, lo, hi).
    3. DequantizeLinear of an integer tensor becomes `Scale`: x = step·(η − zero_point), per channel for the
       image.
    """

    name = "fold_quantizers"

    def requires(self, state: Lowering) -> None:
        """Nodes as in the QDQ file."""
        none_left(state.graph, FileOperation, Scale, Quantize, Staircase)

    def ensures(self, state: Lowering) -> None:
        """No QuantizeLinear or DequantizeLinear; constants behind them are integers."""
        none_left(state.graph, QuantizeLinear, DequantizeLinear)
        for each in state.graph.quantized.values():
            if each.values.dtype != np.int64:
                raise PassError(f"the constant {each.name} isn't whole")

    def run(self, state: Lowering) -> PassResult:
        """ScaleError for a scale that is not positive and finite, UnsupportedModelError for other forms."""
        folding = _Folding(state.graph, state.manifest, PassResult(self.name))
        folding.run()
        return folding.result


class _Folding:
    """One run over a graph."""

    def __init__(self, graph: Graph, manifest: dict[str, Any], result: PassResult) -> None:
        self.graph, self.manifest, self.result = graph, manifest, result
        self.producers: dict[str, Node] = {}
        self.codes = input_codes(graph)
        # Of a folded constant the initializer it comes from: weights keep its name.
        self.origin: dict[str, str] = {}

    def run(self) -> None:
        """Rewrites every node."""
        nodes: list[Node] = []
        for node in self.graph.nodes:
            rewritten = self._rewrite(node)
            if rewritten is not None:
                nodes.append(rewritten)
                self.producers[rewritten.output] = rewritten
                note_codes(rewritten, self.codes)
        self.graph.nodes = nodes
        self.graph.remove_dead()

    def _rewrite(self, node: Node) -> Node | None:
        constants = self.graph.constants
        first, op = node.inputs[0], node.op
        if isinstance(op, QuantizeLinear):
            if first in constants:
                constants[node.output] = self._quantized_constant(node, op)
                return None
            return self._quantize(node, op)
        if isinstance(op, Clip):
            return self._clip(node)
        if isinstance(op, DequantizeLinear):
            if first in constants:
                self._dequantized_constant(node, op)
                return None
            return self._scale(node, op)
        return node

    def _clip(self, node: Node) -> Node | None:
        """Of a constant, of codes, or of a real tensor, which stays."""
        constants, first = self.graph.constants, node.inputs[0]
        if first in constants:
            constants[node.output] = self._clipped_constant(node)
            self.origin[node.output] = self.origin.get(first, first)
            return None
        producer = self.producers.get(first)
        if producer is not None and isinstance(producer.op, Quantize):
            return self._narrow(node, producer, producer.op)
        self.result.left_alone.append(f"{node.label} (Clip): no quantizer is right in front of it")
        return node

    def _scales(self, node: Node) -> list[Fraction]:
        """The positive finite scales of a Q or DQ node: one, or one a channel."""
        name = node.inputs[1]
        array = constant(self.graph, node, name, "scale")
        if array.ndim > 1 or not array.size:
            raise UnsupportedModelError(
                f"node {node.label}: scale {name} of {array.ndim} dimensions",
                received=list(array.shape),
                valid="one scale, or one a channel",
            )
        values = array.astype(np.float64).ravel()
        for value in values.tolist():
            if not math.isfinite(value) or value <= 0:
                raise ScaleError(
                    f"node {node.label}: scale {name} can't be a quantization step",
                    received=value,
                    valid="positive finite numbers",
                    next_command="retrain or recalibrate this quantizer, then "
                    "aqd-deploy export CHECKPOINT.pt -o m.qdq.onnx",
                )
        return exact_list(values)

    def _zero_points(self, node: Node, absent: int = TensorProto.UINT8) -> tuple[list[int], str]:
        """Zero points and the name of their type, which is the quantized type; a zero of the type `absent`
        where there are none.
        """
        if len(node.inputs) < 3 or not node.inputs[2]:
            return [0], element_name(absent)
        array = constant(self.graph, node, node.inputs[2], "zero point")
        if array.ndim > 1 or not array.size:
            raise UnsupportedModelError(
                f"node {node.label}: zero point {node.inputs[2]} of {array.ndim} dimensions",
                received=list(array.shape),
                valid="one zero point, or one a channel",
            )
        return [int(v) for v in array.astype(np.int64).ravel()], str(array.dtype)

    def _quantizer(self, node: Node, op: QuantizeLinear) -> Quantize:
        steps = self._scales(node)
        zeros, dtype = self._zero_points(node, op.output_dtype or TensorProto.UINT8)
        if dtype not in _STORAGE:
            raise UnsupportedModelError(
                f"node {node.label}: activations quantized to {dtype}", valid=", ".join(sorted(_STORAGE))
            )
        lo, hi = _CODES[dtype]
        if len(set(steps)) == len(set(zeros)) == 1:
            return Quantize(Quantizer(steps[0], lo, hi, zeros[0]), _STORAGE[dtype])
        count = max(len(steps), len(zeros))
        if op.axis not in (1, -3) or {len(steps), len(zeros)} - {1, count}:
            raise UnsupportedModelError(
                f"node {node.label}: {len(steps)} scales and {len(zeros)} zero points along axis {op.axis}",
                valid="one, or one a channel (axis 1)",
            )
        # Codes of x / step are those of x·(1 / step) with a step of 1.
        pairs = zip(steps * (count // len(steps)), zeros * (count // len(zeros)), strict=True)
        channels = tuple((1 / step, zero) for step, zero in pairs)
        return Quantize(Quantizer(Fraction(1), lo, hi, zeros[0]), _STORAGE[dtype], channels)

    def _quantize(self, node: Node, op: QuantizeLinear) -> Node:
        """Case 2 without its Clip."""
        quantize = self._quantizer(node, op)
        step = float(quantize.quantizer.step / quantize.variants()[0][0])
        self.result.changed.append(f"{node.label}: activation quantizer, step {step:.6g}")
        return Node(quantize, [node.inputs[0]], node.output, node.source)

    def _narrow(self, node: Node, producer: Node, op: Quantize) -> Node:
        """Case 2: the Clip narrows its quantizer's range. Other readers of the wider codes keep theirs."""
        quantizer = op.quantizer
        low, high = (None if bound is None else int(bound) for bound in clip_bounds(self.graph, node))
        low, high = (clipped(code, low, high) for code in (quantizer.lo, quantizer.hi))
        narrowed = replace(op, quantizer=replace(quantizer, lo=low, hi=high))
        self.result.changed.append(f"{node.label}: range of {producer.label} narrowed to {low}..{high}")
        return Node(narrowed, producer.inputs, node.output, producer.source)

    def _scale(self, node: Node, op: DequantizeLinear) -> Node:
        """Case 3."""
        source = node.inputs[0]
        if source not in self.codes:
            raise UnsupportedModelError(
                f"node {node.label}: DequantizeLinear of {source}, which isn't quantized",
                valid="an input, or what a QuantizeLinear made, also through pooling, upsampling and concat",
            )
        channels = self.graph.shapes[source][1]
        steps = self._scales(node)
        zeros, _ = self._zero_points(node)
        if (len(steps) > 1 or len(zeros) > 1) and op.axis not in (1, -3):
            raise UnsupportedModelError(
                f"node {node.label}: scales along axis {op.axis}", valid="axis 1 (channels)"
            )
        if len(steps) not in (1, channels) or len(zeros) not in (1, channels):
            raise UnsupportedModelError(f"node {node.label}: {len(steps)} scales for {channels} channels")
        count = max(len(steps), len(zeros))
        pairs = zip(steps * (count // len(steps)), zeros * (count // len(zeros)), strict=True)
        forms = [ChannelForm(s, -s * z) for s, z in pairs] * (channels // count)
        return Node(Scale(forms), [source], node.output, node.source)

    def _clipped_constant(self, node: Node) -> np.ndarray:
        """Case 1: the Clip of constant codes, or of constant weights before they are quantized."""
        values = self.graph.constants[node.inputs[0]]
        low, high = clip_bounds(self.graph, node)
        # The operators' table takes real numbers and codes only.
        if helper.np_dtype_to_tensor_dtype(values.dtype) not in REAL:
            values = values.astype(np.int64)
        for bound, apply in ((low, np.maximum), (high, np.minimum)):
            values = values if bound is None else apply(values, np.asarray(float(bound)).astype(values.dtype))
        return values

    def _quantized_constant(self, node: Node, op: QuantizeLinear) -> np.ndarray:
        """Case 1 for a float constant: QuantizeLinear as onnxruntime computes it, in float32."""
        name = node.inputs[0]
        values, scale = self.graph.constants[name], self.graph.constants[node.inputs[1]]
        if values.dtype != np.float32 or scale.dtype != np.float32 or not np.isfinite(values).all():
            raise UnsupportedModelError(
                f"node {node.label}: the constant {name} can't be quantized here",
                received=f"{values.dtype} with a scale of {scale.dtype}"
                if np.isfinite(values).all()
                else "a number that isn't finite",
                valid="finite float32 numbers, or weights that are integers already",
            )
        self._scales(node)
        zeros, dtype = self._zero_points(node, op.output_dtype or TensorProto.UINT8)
        if dtype not in _CODES:
            raise UnsupportedModelError(
                f"node {node.label}: weights quantized to {dtype}", valid=", ".join(sorted(_CODES))
            )
        lo, hi = _CODES[dtype]
        shape = [1] * values.ndim
        if scale.size > 1:
            axis = op.axis
            if not -values.ndim <= axis < values.ndim or values.shape[axis] != scale.size:
                raise UnsupportedModelError(
                    f"node {node.label}: {scale.size} scales along axis {axis} of {list(values.shape)}",
                    valid="one scale, or one per output channel (axis 0)",
                )
            shape[axis] = scale.size
        if len(zeros) not in (1, scale.size):
            raise UnsupportedModelError(
                f"node {node.label}: {len(zeros)} zero points for {scale.size} scales", valid="as many"
            )
        codes = np.rint(values / scale.reshape(shape))
        zero = np.array(zeros, dtype=np.int64).reshape(shape if len(zeros) > 1 else [1] * values.ndim)
        self.origin[node.output] = self.origin.get(name, name)
        # Clipped while it is float: a quotient beyond int64 has no integer.
        return np.clip(codes.astype(np.float64) + zero, lo, hi).astype(np.int64)

    def _dequantized_constant(self, node: Node, op: DequantizeLinear) -> None:
        """Case 1. The name is the initializer's, so that a shared one stays one."""
        name = node.inputs[0]
        values = self.graph.constants[name].astype(np.int64)
        self._check_odd(node, name, values)
        scales = self._scales(node)
        zeros, _ = self._zero_points(node)
        axis = op.axis if max(len(scales), len(zeros)) > 1 else 0
        axis += values.ndim if axis < 0 else 0
        sizes = {1, values.shape[axis] if axis < values.ndim else 1}
        if not {len(scales), len(zeros)} <= sizes:
            raise UnsupportedModelError(
                f"node {node.label}: {len(scales)} scales and {len(zeros)} zero points along axis {op.axis} "
                f"of the constant {name}",
                received=list(values.shape),
                valid="one, or one for each index of the axis",
            )
        shape = [1] * values.ndim
        if len(zeros) > 1:
            shape[axis] = len(zeros)
        centred = values - np.array(zeros, dtype=np.int64).reshape(shape)
        self.graph.quantized[node.output] = Quantized(self.origin.get(name, name), centred, scales, axis)
        self.result.changed.append(f"{node.label}: integers {name}")

    def _check_odd(self, node: Node, name: str, values: np.ndarray) -> None:
        """Of a file whose manifest says the bits of AQD's weights, Eq. 3: a NaN, for one, becomes a 0.

        A Clip in front of `values` can make an even integer odd, so the initializer has to be odd as well.
        """
        bits = self.manifest.get("bits")
        if not isinstance(bits, dict) or bits.get("weights") is None:
            return
        raw = self.graph.constants[self.origin.get(name, name)]
        integers = [] if np.issubdtype(raw.dtype, np.floating) else [raw.astype(np.int64)]
        for each in (*integers, values):
            even = each[each % 2 == 0]
            if even.size:
                raise UnsupportedModelError(
                    f"node {node.label}: {even.size} of the weights {name} aren't the odd integers of AQD",
                    received=int(even[0]),
                    valid="odd integers (Eq. 3), as the bits in the manifest say",
                    next_command="aqd-deploy export CHECKPOINT.pt -o m.qdq.onnx",
                )


def clipped(code: int, low: int | None, high: int | None) -> int:
    """What Clip makes of a code; of bounds that cross the upper one wins, as in onnxruntime."""
    code = code if low is None else max(code, low)
    return code if high is None else min(code, high)
