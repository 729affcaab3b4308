"""Makes every convolution an integer one; the scales move behind it."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.integer import ranges
from aqd_deploy.integer.rational import ChannelForm, product
from aqd_deploy.passes.constants import finite_reals
from aqd_deploy.passes.graph import Graph, Node, Pass, PassResult, Weights, codes_of

_GEOMETRY = ("strides", "pads", "dilations", "group")


@dataclass(frozen=True)
class _Codes:
    """What a convolution reads: `source`, stored as `dtype`.

    `response` [O]: Σ w·zero point, to be taken from the accumulators, 0 where ConvInteger does so itself with
    its input `zero_point_name`.
    """

    source: str
    dtype: str
    response: list[int]
    padding: list[Node] = field(default_factory=list)
    zero_point: int = 0
    zero_point_name: list[str] = field(default_factory=list)


class IntegerConvolutions(Pass):
    """Eq. 4: Conv(η_x·α_x, η_w·α_w) + bias = acc·α_x·α_w + bias with acc = ConvInteger(η_x, η_w), exact.

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
    requires = "fold_quantizers"
    ensures = "no Conv; every accumulator is followed by a Scale"
    removes = ("Conv",)

    def run(self, graph: Graph) -> PassResult:
        """UnsupportedModelError for a convolution that isn't quantized on both sides."""
        result = PassResult(self.name)
        self.stored: dict[str, np.ndarray] = {}
        self.ones: dict[tuple[int, ...], str] = {}
        self.producers, self.codes = graph.producers(), codes_of(graph)
        self.read = {name for node in graph.nodes for name in node.inputs}
        nodes: list[Node] = []
        for node in graph.nodes:
            if node.op == "Conv":
                nodes += self._lower(graph, node)
                result.changed.append(f"{node.label}: {nodes[-2].op}")
            else:
                nodes.append(node)
        graph.nodes = nodes
        graph.remove_dead()
        return result

    def _lower(self, graph: Graph, node: Node) -> list[Node]:
        scale = self.producers.get(node.inputs[0])
        weights = graph.weights.get(node.inputs[1])
        if scale is None or scale.op != "Scale" or weights is None:
            which = "weights aren't" if weights is None else "input isn't"
            raise UnsupportedModelError(
                f"convolution {node.label}: its {which} quantized right in front of it, so it is a float "
                "layer (AQD* leaves the first and the last layers in float)",
                valid="quantized convolutions only: AQD with 8-bit first and last layers",
                next_command="aqd-deploy export CHECKPOINT.pt -o m.qdq.onnx, of a network trained with AQD",
            )
        forms = scale.attributes["forms"]
        if len({form.a for form in forms}) > 1:
            raise UnsupportedModelError(
                f"convolution {node.label}: its input has one scale per channel",
                valid="one scale a tensor; for the image std = [s, s, s]",
                next_command="aqd-deploy export CHECKPOINT.pt -o m.qdq.onnx, with std [1, 1, 1] in its "
                "configuration",
            )
        attributes = {name: node.attributes[name] for name in _GEOMETRY}
        alphas = [product(forms[0].a, form.a) for form in weights.forms]
        codes = self._codes(graph, node, scale, weights, attributes)
        bias = [Fraction(0)] * len(alphas)
        if len(node.inputs) > 2 and node.inputs[2]:
            bias = finite_reals(graph, node, node.inputs[2], "bias", len(alphas))
        out = [
            ChannelForm(alpha, b - alpha * response if response else b)
            for alpha, b, response in zip(alphas, bias, codes.response, strict=True)
        ]
        accumulator = graph.fresh(f"{node.output}_acc")
        graph.shapes[accumulator] = graph.shapes[node.output]
        convolution = self._convolution(graph, node, codes, weights, accumulator, attributes)
        convolution.attributes["zero_point"] = codes.zero_point
        behind = Node("Scale", [accumulator], node.output, {"forms": out, "zero_points": [0]}, node.source)
        return [*codes.padding, convolution, behind]

    def _codes(self, graph: Graph, node: Node, scale: Node, weights: Weights, attributes: dict) -> _Codes:
        """Cases 3 and 4; takes the pads out of `attributes` where a PadImage does them."""
        source, zeros = scale.inputs[0], scale.attributes["zero_points"]
        dtype = self.codes[source]
        none = [0] * len(weights.forms)
        if not any(zeros):
            return _Codes(source, dtype, none)
        padded, uniform = any(attributes["pads"]), len(set(zeros)) == 1
        if uniform and not (source in graph.inputs and (dtype == "uint8" or not padded)):
            name = graph.fresh(f"{node.output}_zero_point")
            graph.constants[name] = np.array(zeros[0], dtype=dtype)
            return _Codes(source, dtype, none, zero_point=zeros[0], zero_point_name=[name])
        if padded and dtype != "uint8":
            raise UnsupportedModelError(
                f"convolution {node.label}: it pads an {dtype} input that has one zero point a channel",
                received=zeros,
                valid="one zero point a tensor, uint8 codes, or no padding",
            )
        padding: list[Node] = []
        source = self._pad_image(graph, node, source, zeros, attributes, padding)
        return _Codes(source, dtype, self._mean_response(weights, zeros, attributes["group"]), padding)

    def _mean_response(self, weights: Weights, zeros: list[int], group: int) -> list[int]:
        """Σ w·mean per output channel (case 3)."""
        out_channels, per_group = weights.values.shape[:2]
        means = np.array(zeros, dtype=np.int64)
        index = np.repeat(np.arange(group), out_channels // group)[:, None] * per_group + np.arange(per_group)
        return [int(v) for v in (weights.values.sum(axis=(2, 3)) * means[index]).sum(axis=1)]

    def _pad_image(
        self, graph: Graph, node: Node, source: str, zeros: list[int], attributes: dict, prefix: list[Node]
    ) -> str:
        """Case 3: pads with the mean pixel; the convolution is left without pads."""
        top, left, bottom, right = attributes["pads"]
        if not any(attributes["pads"]):
            return source
        shape = graph.shapes[source]
        channels = shape[1]
        values = graph.fresh(f"{source}_mean")
        means = np.array(zeros * (channels // len(zeros)), dtype=np.int64)
        graph.constants[values] = means.astype(np.uint8).reshape(1, channels, 1, 1)
        padded = graph.fresh(f"{source}_padded")
        graph.shapes[padded] = (shape[0], channels, shape[2] + top + bottom, shape[3] + left + right)
        pads = [0, 0, top, left, 0, 0, bottom, right]
        prefix.append(Node("PadImage", [source, values], padded, {"pads": pads}, node.source))
        attributes["pads"] = [0, 0, 0, 0]
        return padded

    def _convolution(
        self,
        graph: Graph,
        node: Node,
        codes: _Codes,
        weights: Weights,
        accumulator: str,
        attributes: dict,
    ) -> Node:
        """Cases 1 and 2; the weight constant has the initializer's name, so that shared weights stay one
        tensor.
        """
        q = weights.values
        if q.min() >= -128 and q.max() <= 127:
            name = self._weight_constant(graph, weights.name, q.astype(np.int8))
            inputs = [codes.source, name, *codes.zero_point_name]
            return Node("ConvInteger", inputs, accumulator, {**attributes, "values": q}, node.source)
        if not (q % 2 == 1).all() or q.min() < -255 or q.max() > 255:
            raise UnsupportedModelError(
                f"convolution {node.label}: weights in [{q.min()}, {q.max()}]",
                valid="int8, or odd numbers within ±255 (8-bit AQD)",
            )
        if attributes["group"] != 1 or codes.zero_point_name or codes.dtype != "uint8":
            raise UnsupportedModelError(
                f"convolution {node.label}: 8-bit odd weights with group {attributes['group']} and "
                f"an input of {codes.dtype}" + (" with a zero point" if codes.zero_point_name else ""),
                valid="group 1, uint8 and zero point 0, or weights of at most 7 bits",
            )
        name = self._weight_constant(graph, weights.name, ((q - 1) // 2).astype(np.int8))
        ones = self._ones(graph, q.shape[1:])
        inputs = [codes.source, name, ones]
        return Node("ConvOdd", inputs, accumulator, {**attributes, "values": q}, node.source)

    def _ones(self, graph: Graph, shape: tuple[int, ...]) -> str:
        """The window-sum weights [1, I, kh, kw] of all convolutions of this shape."""
        if shape not in self.ones:
            name = self.ones[shape] = graph.fresh("ones_1x" + "x".join(map(str, shape)))
            graph.constants[name] = np.ones((1, *shape), dtype=np.int8)
        return self.ones[shape]

    def _weight_constant(self, graph: Graph, name: str, values: np.ndarray) -> str:
        """Stores integer weights under the initializer's name, once; under another one where that holds other
        values or where a node reads the initializer itself.
        """
        stored = self.stored.get(name)
        if name in self.read or (stored is not None and not np.array_equal(stored, values)):
            name = graph.fresh(name)
        graph.constants[name] = self.stored[name] = values
        return name


def accumulator_range(node: Node, source: ranges.Interval) -> ranges.Interval:
    """The proven interval of a ConvInteger or ConvOdd node; RangeError where it leaves int32."""
    a = node.attributes
    interval = ranges.convolution(a["values"], source, a["group"], a["zero_point"], any(a["pads"]))
    return interval.require_int32(node.label)
