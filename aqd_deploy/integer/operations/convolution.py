"""Convolutions of codes with int8 weights: ConvInteger, ConvOdd for 8-bit odd weights, and ConvOffset for
weights of 9 bits.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
from onnx import AttributeProto, NodeProto, helper

from aqd_deploy.errors import ShapeError, UnsupportedModelError
from aqd_deploy.integer import attributes as a
from aqd_deploy.integer import ranges
from aqd_deploy.integer.arithmetic import Arithmetic
from aqd_deploy.integer.attributes import Attribute
from aqd_deploy.integer.graph import Graph, Node
from aqd_deploy.integer.operations import body
from aqd_deploy.integer.operations.entry import (
    Function,
    Operand,
    Operation,
    elements,
    source_interval,
    source_type,
)
from aqd_deploy.integer.operations.windows import check_auto_pad, window_counts, windows
from aqd_deploy.integer.ranges import Interval
from aqd_deploy.integer.types import CODES

_WEIGHT = Operand("w", "int8", ("*", "*", "*", "*"))
_ZERO_POINT = "x_zero_point"
MAX_OFFSET = 128
"""Of the weights of a ConvOffset: uint8 weights q of zero point z are (q − 128) + (128 − z)."""

_GEOMETRY = {"strides": a.pair(), "pads": a.PADS, "dilations": a.pair()}


class Convolution(Operation):
    """A convolution with stored weights w, int8 [O, C/group, kh, kw], its second input.

    `weight_operands` are the constants that make the weights.
    """

    weight_operands: ClassVar[tuple[str, ...]] = ("w",)
    takes_bytes: ClassVar[bool] = True
    """Whether a weight takes 8 bits whatever its value."""

    def shape(self, node: Node, graph: Graph) -> tuple[int, int, int]:
        x, weight = source_type(node, graph), graph.operand(node, "w")
        out_channels, per_group, *kernel = weight.shape
        group = node.attributes["group"]
        if group > out_channels or out_channels % group or per_group * group != x.channels:
            raise ShapeError(
                f"{node.label} does not fit its input",
                received=f"input {list(x.nchw)}, weights {list(weight.shape)}, group {group}",
                valid="weights [O, C/group, kh, kw] with O a multiple of group",
            )
        dilations = node.attributes["dilations"]
        spans = ((kernel[0] - 1) * dilations[0] + 1, (kernel[1] - 1) * dilations[1] + 1)
        pads = node.attributes["pads"]
        return *window_counts(node, x, spans, node.attributes["strides"], pads), out_channels

    def interval(self, node: Node, graph: Graph) -> Interval:
        """The accumulators, from the weights themselves."""
        sums, padded = self._tap_sums(node, graph), any(node.attributes["pads"])
        source, zero = source_interval(node, graph), zero_point(node, graph)
        interval = ranges.accumulators(sums, source, node.attributes["group"], zero, padded)
        return interval.require_int32(node.name)

    def arithmetic(self, node: Node, graph: Graph) -> Arithmetic:
        """One product and one sum a weight at each place, padding included."""
        return Arithmetic(macs=elements(node, graph) * math.prod(graph.operand(node, "w").shape[1:]))

    def _tap_sums(self, node: Node, graph: Graph) -> ranges.TapSums:
        """Made once for a weight that several convolutions read."""
        key = (self.name, *(node.slots[self.slots[name]] for name in self.weight_operands))
        if key not in graph.tap_sums:
            graph.tap_sums[key] = ranges.tap_sums(self.true_weights(node, graph))
        return graph.tap_sums[key]

    @abstractmethod
    def true_weights(self, node: Node, graph: Graph) -> np.ndarray:
        """What the stored weights stand for: int16 where int8 does not hold them."""

    def meaning(self, node: Node, graph: Graph, values: Sequence[np.ndarray]) -> np.ndarray:
        x = values[0] - zero_point(node, graph)
        weights = self.true_weights(node, graph).astype(np.int64)
        rows, columns = node.attributes["dilations"]
        spans = ((weights.shape[2] - 1) * rows + 1, (weights.shape[3] - 1) * columns + 1)
        taps = windows(x, spans, node.attributes["strides"], node.attributes["pads"], 0)
        group = node.attributes["group"]
        parts = zip(np.split(taps[..., ::rows, ::columns], group), np.split(weights, group), strict=True)
        return np.concatenate([np.einsum("chwij,ocij->ohw", part, w) for part, w in parts])[None]

    @abstractmethod
    def with_unsigned_weights(
        self, node: NodeProto, w: str, zero: str, fresh: Callable[[str], str]
    ) -> list[NodeProto]:
        """Standard nodes that do what `node` does with the weights w + 128, uint8, of zero point 128.

        `w` and `zero` are the tensors that hold these, `fresh` makes a name that is free.
        """


class ConvInteger(Convolution):
    """ONNX's own."""

    name = "ConvInteger"
    accepts = CODES
    operands = (_WEIGHT, Operand(_ZERO_POINT, "", (), optional=True))
    attributes: ClassVar = {**_GEOMETRY, "group": a.GROUP, "kernel_shape": a.KERNEL, "auto_pad": a.AUTO_PAD}
    takes_bytes = False

    def true_weights(self, node: Node, graph: Graph) -> np.ndarray:
        """As they are."""
        return graph.operand(node, "w")

    def check(self, node: Node, graph: Graph) -> None:
        check_auto_pad(node)
        kernel = list(graph.operand(node, "w").shape[2:])
        given = node.attributes.get("kernel_shape")
        if given is not None and list(given) != kernel:
            raise ShapeError(
                f"the kernel_shape of {node.label} is not that of its weights",
                received=list(given),
                valid=str(kernel),
            )

    def with_unsigned_weights(
        self, node: NodeProto, w: str, zero: str, fresh: Callable[[str], str]
    ) -> list[NodeProto]:
        input_zero = node.input[2] if len(node.input) > 2 else ""
        plain = helper.make_node(self.name, [node.input[0], w, input_zero, zero], list(node.output))
        plain.attribute.extend(node.attribute)
        return [plain]


class ConvOdd(Convolution, Function):
    """8-bit odd weights 2·w + 1: 2·ConvInteger(x, w) + ConvInteger(x, ones)."""

    name = "ConvOdd"
    accepts = ("uint8",)
    operands = (_WEIGHT, Operand("ones", "int8", (1, "C", "*", "*")))
    attributes: ClassVar = {**_GEOMETRY, "group": Attribute(AttributeProto.INT, 1, choices=(1,))}

    def true_weights(self, node: Node, graph: Graph) -> np.ndarray:
        """2·w + 1."""
        return 2 * graph.operand(node, "w").astype(np.int16) + 1

    def check(self, node: Node, graph: Graph) -> None:
        """ "ones s8 of shape [group, I, kh, kw] all 1"; group is 1."""
        weight, ones = graph.operand(node, "w"), graph.operand(node, "ones")
        if ones.shape != (1, *weight.shape[1:]) or not (ones == 1).all():
            raise UnsupportedModelError(
                f"the third input of {node.label} is not ones",
                received=f"shape {list(ones.shape)}, values from {ones.min()} to {ones.max()}",
                valid=f"shape {[1, *weight.shape[1:]]}, all 1",
            )

    def body(self, op_type: str) -> list[NodeProto]:
        nodes = [_convolve(["x", "w"], "half"), _convolve(["x", "ones"], "window")]
        for node in nodes:
            node.attribute.extend(
                body.attribute_of_node(name, name, rule.kind) for name, rule in self.attributes.items()
            )
        return [*nodes, *_doubled("half", "window", "double", "y")]

    def with_unsigned_weights(
        self, node: NodeProto, w: str, zero: str, fresh: Callable[[str], str]
    ) -> list[NodeProto]:
        """The body written out; its window sum, with weights of 1, can't saturate and stays."""
        x, output = node.input[0], node.output[0]
        half, window, double = (fresh(f"{output}_{name}") for name in ("half", "window", "double"))
        nodes = [_convolve([x, w, "", zero], half), _convolve([x, node.input[2]], window)]
        for convolution in nodes:
            convolution.attribute.extend(node.attribute)
        return [*nodes, *_doubled(half, window, double, output)]


class ConvOffset(Convolution, Function):
    """Weights w + offset of 9 bits: ConvInteger(x, w) + offset·ConvInteger(x, ones)."""

    name = "ConvOffset"
    accepts = CODES
    operands = (
        _WEIGHT,
        Operand("ones", "int8", ("*", "*", "*", "*")),
        Operand("offset", "int32", (1, "*", 1, 1)),
        Operand(_ZERO_POINT, "", ()),
    )
    attributes: ClassVar = {**_GEOMETRY, "group": a.GROUP}
    weight_operands = ("w", "offset")

    def check(self, node: Node, graph: Graph) -> None:
        """ "ones [1, I, kh, kw], or as w where there are groups, all 1", and an offset for each output."""
        weight, ones, offset = (graph.operand(node, name) for name in ("w", "ones", "offset"))
        shape = (weight.shape[0] if node.attributes["group"] > 1 else 1, *weight.shape[1:])
        if ones.shape != shape or not (ones == 1).all():
            raise UnsupportedModelError(
                f"the third input of {node.label} is not ones",
                received=f"shape {list(ones.shape)}, values from {ones.min()} to {ones.max()}",
                valid=f"shape {list(shape)}, all 1",
            )
        if offset.shape[1] != weight.shape[0] or offset.min() < -MAX_OFFSET or offset.max() > MAX_OFFSET:
            raise UnsupportedModelError(
                f"the offsets of {node.label} are not one an output channel, of 8 bits and a sign",
                received=f"shape {list(offset.shape)}, values from {offset.min()} to {offset.max()}",
                valid=f"shape {[1, weight.shape[0], 1, 1]}, -{MAX_OFFSET} to {MAX_OFFSET}",
            )

    def true_weights(self, node: Node, graph: Graph) -> np.ndarray:
        """w + offset, of 9 bits."""
        offset = graph.operand(node, "offset").reshape(-1, 1, 1, 1)
        return (graph.operand(node, "w") + offset).astype(np.int16)

    def body(self, op_type: str) -> list[NodeProto]:
        nodes = [
            _convolve(["x", "w", _ZERO_POINT], "stored"),
            _convolve(["x", "ones", _ZERO_POINT], "window"),
        ]
        for node in nodes:
            node.attribute.extend(
                body.attribute_of_node(name, name, rule.kind) for name, rule in self.attributes.items()
            )
        return [*nodes, *_added("stored", "window", "offset", "part", "y")]

    def with_unsigned_weights(
        self, node: NodeProto, w: str, zero: str, fresh: Callable[[str], str]
    ) -> list[NodeProto]:
        """The body written out; its window sum, with weights of 1, can't saturate and stays."""
        (x, _, ones, offset, x_zero), output = node.input, node.output[0]
        stored, window, part = (fresh(f"{output}_{name}") for name in ("stored", "window", "part"))
        nodes = [_convolve([x, w, x_zero, zero], stored), _convolve([x, ones, x_zero], window)]
        for convolution in nodes:
            convolution.attribute.extend(node.attribute)
        return [*nodes, *_added(stored, window, offset, part, output)]


def zero_point(node: Node, graph: Graph) -> int:
    """The zero point of a convolution's input; 0 where it has none."""
    return int(graph.operand(node, _ZERO_POINT)) if graph.has_operand(node, _ZERO_POINT) else 0


def _convolve(inputs: list[str], output: str) -> NodeProto:
    return helper.make_node(ConvInteger.name, inputs, [output])


def _doubled(half: str, window: str, double: str, output: str) -> list[NodeProto]:
    """2·half + window."""
    return [
        helper.make_node("Add", [half, half], [double]),
        helper.make_node("Add", [double, window], [output]),
    ]


def _added(stored: str, window: str, offset: str, part: str, output: str) -> list[NodeProto]:
    """stored + offset·window."""
    return [
        helper.make_node("Mul", [window, offset], [part]),
        helper.make_node("Add", [stored, part], [output]),
    ]
