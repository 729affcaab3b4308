"""Makes every convolution an integer one; the scales move behind it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.integer import ranges
from aqd_deploy.integer.rational import ChannelForm, product
from aqd_deploy.passes.codes import codes_of
from aqd_deploy.passes.constants import finite_reals
from aqd_deploy.passes.contract import Lowering, Pass, PassError, PassResult, none_left
from aqd_deploy.passes.graph import Graph, Node, Weights
from aqd_deploy.passes.integer_operations import CONVOLUTIONS, ConvInteger, ConvOdd, PadImage
from aqd_deploy.passes.operations import Conv, DequantizeLinear, FileOperation, QuantizeLinear, Scale


@dataclass(frozen=True)
class _Codes:
    """What a convolution reads: `source`, stored as `dtype`, in windows that are padded as `pads` say.

    `response` [O]: Σ w·zero point, to be taken from the accumulators, 0 where ConvInteger does so itself with
    its input `zero_point_name`.
    """

    source: str
    dtype: str
    response: list[int]
    pads: tuple[int, ...]
    padding: list[Node] = field(default_factory=list)
    zero_point: int = 0
    zero_point_name: list[str] = field(default_factory=list)


class IntegerConvolutions(Pass):
    """Eq. 4: Conv(η_x·α_x, η_w·α_w) + bias = acc·α_x·α_w + bias with acc = ConvInteger(η_x, η_w), exact.

        codes ── Scale ── Conv ── y        codes ── PadImage ── ConvInteger ── Scale ── y
        weights (q, α) ───┘                weights q ────────────┘

    1. Weights that fit int8: `ConvInteger`.
    2. Odd weights beyond int8 (8-bit AQD, q = 2w + 1): `ConvOdd` with w int8; acc = 2·(x ∗ w) + (x ∗ 1).
    3. uint8 pixels p stand for (p − mean)·α. The convolution takes the pixels; Σ_w·mean moves into the
       offset, and the padding is the mean pixel (`PadImage`), which stands for 0. Without padding, codes of
       any type may have one zero point a channel.
    4. An input with a zero point, the same in every channel: ConvInteger's x_zero_point, which is also its
       padding.
    5. The float bias stays an exact offset of the accumulators' scale.

    Refused: an input or weights that aren't quantized (AQD* keeps the first and last layers in float),
    per-channel scales of an input, 8-bit odd weights in a grouped convolution or behind int8 codes (`ConvOdd`
    takes uint8), and padded int8 codes with one zero point a channel (`PadImage` pads uint8).
    """

    name = "integer_convolutions"

    def requires(self, state: Lowering) -> None:
        """Folded quantizers."""
        none_left(state.graph, FileOperation, QuantizeLinear, DequantizeLinear)

    def ensures(self, state: Lowering) -> None:
        """No Conv; every accumulator is read by a Scale only."""
        none_left(state.graph, Conv)
        readers = state.graph.consumers()
        for node in state.graph.nodes:
            if isinstance(node.op, CONVOLUTIONS):
                others = [r for r in readers.get(node.output, []) if not isinstance(r.op, Scale)]
                if others or node.output in state.graph.outputs:
                    raise PassError(f"the accumulators of {node.label} have another reader than a Scale")

    def run(self, state: Lowering) -> PassResult:
        """UnsupportedModelError for a convolution that isn't quantized on both sides."""
        lowered = _Convolutions(state.graph, PassResult(self.name))
        lowered.run()
        return lowered.result


class _Convolutions:
    """One run over a graph."""

    def __init__(self, graph: Graph, result: PassResult) -> None:
        self.graph, self.result = graph, result
        self.stored: dict[str, np.ndarray] = {}
        self.ones: dict[tuple[int, ...], str] = {}
        self.producers, self.codes = graph.producers(), codes_of(graph)
        self.read = {name for node in graph.nodes for name in node.inputs}

    def run(self) -> None:
        """Lowers every convolution."""
        nodes: list[Node] = []
        for node in self.graph.nodes:
            if isinstance(node.op, Conv):
                nodes += self._lower(node, node.op)
                self.result.changed.append(f"{node.label}: {nodes[-2].op.name}")
            else:
                nodes.append(node)
        self.graph.nodes = nodes
        self.graph.remove_dead()

    def _lower(self, node: Node, op: Conv) -> list[Node]:
        graph = self.graph
        producer = self.producers.get(node.inputs[0])
        scale = producer.op if producer is not None else None
        weights = graph.weights.get(node.inputs[1])
        if producer is None or not isinstance(scale, Scale) or weights is None:
            which = "weights aren't" if weights is None else "input isn't"
            raise UnsupportedModelError(
                f"convolution {node.label}: its {which} quantized right in front of it, so it is a float "
                "layer (AQD* leaves the first and the last layers in float)",
                valid="quantized convolutions only: AQD with 8-bit first and last layers",
                next_command="aqd-deploy export CHECKPOINT.pt -o m.qdq.onnx, of a network trained with AQD",
            )
        if len({form.a for form in scale.forms}) > 1:
            raise UnsupportedModelError(
                f"convolution {node.label}: its input has one scale per channel",
                valid="one scale a tensor; for the image std = [s, s, s]",
                next_command="aqd-deploy export CHECKPOINT.pt -o m.qdq.onnx, with std [1, 1, 1] in its "
                "configuration",
            )
        alphas = [product(scale.forms[0].a, form.a) for form in weights.forms]
        codes = self._codes(node, op, producer.inputs[0], scale.zero_points, weights)
        bias = [Fraction(0)] * len(alphas)
        if len(node.inputs) > 2 and node.inputs[2]:
            bias = finite_reals(graph, node, node.inputs[2], "bias", len(alphas))
        out = [
            ChannelForm(alpha, b - alpha * response if response else b)
            for alpha, b, response in zip(alphas, bias, codes.response, strict=True)
        ]
        accumulator = graph.fresh(f"{node.output}_acc")
        graph.shapes[accumulator] = graph.shapes[node.output]
        convolution = self._convolution(node, op, codes, weights, accumulator)
        behind = Node(Scale(out, [0]), [accumulator], node.output, node.source)
        return [*codes.padding, convolution, behind]

    def _codes(self, node: Node, op: Conv, source: str, zeros: list[int], weights: Weights) -> _Codes:
        """Cases 3 and 4; without pads where a PadImage does them."""
        dtype, pads = self.codes[source], op.window.pads
        none = [0] * len(weights.forms)
        if not any(zeros):
            return _Codes(source, dtype, none, pads)
        padded, uniform = any(pads), len(set(zeros)) == 1
        if uniform and not (source in self.graph.inputs and (dtype == "uint8" or not padded)):
            name = self.graph.fresh(f"{node.output}_zero_point")
            self.graph.constants[name] = np.array(zeros[0], dtype=dtype)
            return _Codes(source, dtype, none, pads, zero_point=zeros[0], zero_point_name=[name])
        if padded and dtype != "uint8":
            raise UnsupportedModelError(
                f"convolution {node.label}: it pads an {dtype} input that has one zero point a channel",
                received=zeros,
                valid="one zero point a tensor, uint8 codes, or no padding",
            )
        response = self._mean_response(weights, zeros, op.group)
        if not padded:
            return _Codes(source, dtype, response, pads)
        pad = self._pad_image(node, source, zeros, pads)
        return _Codes(pad.output, dtype, response, (0, 0, 0, 0), [pad])

    def _mean_response(self, weights: Weights, zeros: list[int], group: int) -> list[int]:
        """Σ w·mean per output channel (case 3)."""
        out_channels, per_group = weights.values.shape[:2]
        means = np.array(zeros, dtype=np.int64)
        index = np.repeat(np.arange(group), out_channels // group)[:, None] * per_group + np.arange(per_group)
        return [int(v) for v in (weights.values.sum(axis=(2, 3)) * means[index]).sum(axis=1)]

    def _pad_image(self, node: Node, source: str, zeros: list[int], pads: tuple[int, ...]) -> Node:
        """Case 3: pads with the mean pixel."""
        graph, (top, left, bottom, right) = self.graph, pads
        shape = graph.shapes[source]
        channels = shape[1]
        values = graph.fresh(f"{source}_mean")
        means = np.array(zeros * (channels // len(zeros)), dtype=np.int64)
        graph.constants[values] = means.astype(np.uint8).reshape(1, channels, 1, 1)
        padded = graph.fresh(f"{source}_padded")
        graph.shapes[padded] = (shape[0], channels, shape[2] + top + bottom, shape[3] + left + right)
        return Node(PadImage(pads), [source, values], padded, node.source)

    def _convolution(self, node: Node, op: Conv, codes: _Codes, weights: Weights, accumulator: str) -> Node:
        """Cases 1 and 2; the weight constant has the initializer's name, so that shared weights stay one
        tensor.
        """
        q, window = weights.values, replace(op.window, pads=codes.pads)
        if q.min() >= -128 and q.max() <= 127:
            name = self._weight_constant(weights.name, q.astype(np.int8))
            inputs = [codes.source, name, *codes.zero_point_name]
            return Node(ConvInteger(window, op.group, q, codes.zero_point), inputs, accumulator, node.source)
        if not (q % 2 == 1).all() or q.min() < -255 or q.max() > 255:
            raise UnsupportedModelError(
                f"convolution {node.label}: weights in [{q.min()}, {q.max()}]",
                valid="int8, or odd numbers within ±255 (8-bit AQD)",
            )
        if op.group != 1 or codes.zero_point_name or codes.dtype != "uint8":
            raise UnsupportedModelError(
                f"convolution {node.label}: 8-bit odd weights with group {op.group} and "
                f"an input of {codes.dtype}" + (" with a zero point" if codes.zero_point_name else ""),
                valid="group 1, uint8 and zero point 0, or weights of at most 7 bits",
            )
        name = self._weight_constant(weights.name, ((q - 1) // 2).astype(np.int8))
        inputs = [codes.source, name, self._ones(q.shape[1:])]
        return Node(ConvOdd(window, op.group, q, codes.zero_point), inputs, accumulator, node.source)

    def _ones(self, shape: tuple[int, ...]) -> str:
        """The window-sum weights [1, I, kh, kw] of all convolutions of this shape."""
        if shape not in self.ones:
            name = self.ones[shape] = self.graph.fresh("ones_1x" + "x".join(map(str, shape)))
            self.graph.constants[name] = np.ones((1, *shape), dtype=np.int8)
        return self.ones[shape]

    def _weight_constant(self, name: str, values: np.ndarray) -> str:
        """Stores integer weights under the initializer's name, once; under another one where that holds other
        values or where a node reads the initializer itself.
        """
        stored = self.stored.get(name)
        if name in self.read or (stored is not None and not np.array_equal(stored, values)):
            name = self.graph.fresh(name)
        self.graph.constants[name] = self.stored[name] = values
        return name


def accumulator_range(node: Node, op: ConvInteger | ConvOdd, source: ranges.Interval) -> ranges.Interval:
    """The proven interval of a convolution; RangeError where it leaves int32."""
    padded = any(op.window.pads)
    interval = ranges.convolution(op.weights, source, op.group, op.zero_point, padded)
    return interval.require_int32(node.label)
