"""Operations that move values: Resize, Concat, Identity, and PadImage, which adds some at the edges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from onnx import AttributeProto, NodeProto, TensorProto, helper

from aqd_deploy.errors import ShapeError, UnsupportedModelError
from aqd_deploy.integer import attributes as a
from aqd_deploy.integer.graph import Graph, Node
from aqd_deploy.integer.operations import body
from aqd_deploy.integer.operations.entry import (
    ANY,
    PER_CHANNEL,
    SAME,
    Function,
    Operand,
    Operation,
    per_channel,
    source_interval,
    source_type,
)
from aqd_deploy.integer.ranges import Interval, concatenate
from aqd_deploy.integer.types import MAX_RESIZED


class Resize(Operation):
    """Nearest upsampling by whole factors, given as `scales` or as `sizes`; ONNX's `roi` is left out."""

    name = "Resize"
    accepts = ANY
    operands = (
        None,
        Operand("scales", "float32", (4,), optional=True),
        Operand("sizes", "int64", (4,), optional=True),
    )
    attributes: ClassVar = {
        "mode": a.word("nearest"),
        "coordinate_transformation_mode": a.word("asymmetric"),
        "nearest_mode": a.word("floor"),
    }
    returns = SAME
    moves_data = True
    float_operands = ("scales",)

    @property
    def inputs(self) -> tuple[int, int]:
        """With one of the two, which stand at the end."""
        return 3, 4

    def check(self, node: Node, graph: Graph) -> None:
        if graph.has_operand(node, "scales") == graph.has_operand(node, "sizes"):
            raise UnsupportedModelError(
                f"Resize {node.name} has other inputs than one of scales and sizes", received=list(node.slots)
            )

    def shape(self, node: Node, graph: Graph) -> tuple[int, int, int]:
        x = source_type(node, graph)
        rows, columns = resize_factors(node, graph)
        return x.height * rows, x.width * columns, x.channels

    def interval(self, node: Node, graph: Graph) -> Interval:
        return source_interval(node, graph)

    def meaning(self, node: Node, graph: Graph, values: Sequence[np.ndarray]) -> np.ndarray:
        rows, columns = resize_factors(node, graph)
        return values[0].repeat(rows, axis=2).repeat(columns, axis=3)


class Concat(Operation):
    """Channels side by side."""

    name = "Concat"
    data = (1, None)
    accepts = ANY
    attributes: ClassVar = {"axis": a.CHANNEL_AXIS}
    returns = SAME
    moves_data = True

    def shape(self, node: Node, graph: Graph) -> tuple[int, int, int]:
        types = [graph.types[name] for name in node.slots]
        if len({(t.height, t.width) for t in types}) != 1:
            raise ShapeError(f"{node.label} joins unlike tensors", received=[list(t.nchw) for t in types[:4]])
        return types[0].height, types[0].width, sum(t.channels for t in types)

    def interval(self, node: Node, graph: Graph) -> Interval:
        return concatenate([graph.ranges[name] for name in node.slots])

    def meaning(self, node: Node, graph: Graph, values: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate(values, axis=1)


class Identity(Operation):
    """Another name, for a tensor that is an output twice."""

    name = "Identity"
    accepts = ANY
    returns = SAME
    moves_data = True
    renames = True

    def interval(self, node: Node, graph: Graph) -> Interval:
        return source_interval(node, graph)

    def meaning(self, node: Node, graph: Graph, values: Sequence[np.ndarray]) -> np.ndarray:
        return values[0]


class PadImage(Function):
    """Pads each channel of a uint8 image with its own value."""

    name = "PadImage"
    accepts = ("uint8",)
    operands = (Operand("values", "", PER_CHANNEL),)
    attributes: ClassVar = {"pads": a.IMAGE_PADS}
    returns = SAME

    def check(self, node: Node, graph: Graph) -> None:
        pads = node.attributes["pads"]
        if any(pads[i] for i in (0, 1, 4, 5)):
            raise UnsupportedModelError(
                f"{node.label} pads more than rows and columns",
                received=list(pads),
                valid="[0, 0, top, left, 0, 0, bottom, right]",
            )

    def shape(self, node: Node, graph: Graph) -> tuple[int, int, int]:
        x = source_type(node, graph)
        top, left, bottom, right = image_pads(node)
        return x.height + top + bottom, x.width + left + right, x.channels

    def interval(self, node: Node, graph: Graph) -> Interval:
        """The image's values, and those of the padding."""
        source, values = source_interval(node, graph), per_channel(node, graph, "values")
        return Interval(np.minimum(source.lo, values), np.maximum(source.hi, values))

    def meaning(self, node: Node, graph: Graph, values: Sequence[np.ndarray]) -> np.ndarray:
        x, padding = values
        top, left, bottom, right = image_pads(node)
        return np.pad(x - padding, ((0, 0), (0, 0), (top, bottom), (left, right))) + padding

    def body(self, op_type: str) -> list[NodeProto]:
        returned = helper.np_dtype_to_tensor_dtype(np.dtype(self.accepts[0]))
        return [
            body.constant_from("amount", "pads", AttributeProto.INTS),
            helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.INT32),
            helper.make_node("Cast", ["values"], ["wide_values"], to=TensorProto.INT32),
            helper.make_node("Sub", ["wide", "wide_values"], ["centred"]),
            helper.make_node("Pad", ["centred", "amount"], ["padded"]),
            helper.make_node("Add", ["padded", "wide_values"], ["restored"]),
            helper.make_node("Cast", ["restored"], ["y"], to=returned),
        ]


class PadSignedImage(PadImage):
    """`PadImage` of an int8 image."""

    name = "PadSignedImage"
    accepts = ("int8",)


def image_pads(node: Node) -> tuple[int, int, int, int]:
    """Top, left, bottom, right of a PadImage."""
    _, _, top, left, _, _, bottom, right = node.attributes["pads"]
    return top, left, bottom, right


def resize_factors(node: Node, graph: Graph) -> tuple[int, int]:
    """Whole upsampling factors (rows, columns) of a Resize by `scales` or `sizes`. Raises
    UnsupportedModelError for other factors, ShapeError for too large ones.
    """
    x = source_type(node, graph)
    if graph.has_operand(node, "scales"):
        factors = graph.operand(node, "scales").tolist()
    else:
        sizes = graph.operand(node, "sizes").tolist()
        factors = [size / old for size, old in zip(sizes, x.nchw, strict=True)]
    if factors[:2] != [1, 1] or not all(f >= 1 and float(f).is_integer() for f in factors):
        raise UnsupportedModelError(
            f"Resize {node.name} is not upsampling by whole factors", received=factors, valid="[1, 1, k, l]"
        )
    rows, columns = int(factors[2]), int(factors[3])
    if max(x.height * rows, x.width * columns) > MAX_RESIZED:
        raise ShapeError(
            f"Resize {node.name} makes too many rows or columns",
            received=f"{x.height * rows} x {x.width * columns}",
            valid=f"up to {MAX_RESIZED}, which float32 can count",
        )
    return rows, columns
