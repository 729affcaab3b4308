"""The operations of the integer dialect, one entry each: docs/integer-dialect.md as data.

An entry says what a node may look like (inputs, constants, attributes), the type of what it returns, and
which interval of that is proven. `integer.reader` holds every node of a file to its entry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from onnx import AttributeProto

from aqd_deploy.errors import ShapeError, UnsupportedModelError
from aqd_deploy.integer import attributes as a
from aqd_deploy.integer import intervals
from aqd_deploy.integer.attributes import Attribute
from aqd_deploy.integer.dialect import DOMAIN, parse_pool_name
from aqd_deploy.integer.graph import Graph, Node, constant
from aqd_deploy.integer.ranges import Interval
from aqd_deploy.integer.types import (
    CODES,
    ELEMENT_TYPES,
    MAX_ELEMENTS,
    MAX_RESIZED,
    SMALL_POOL,
    TensorType,
    pool_fits,
)

STREAM = ("int32",)
ANY = (*CODES, *STREAM)


@dataclass(frozen=True)
class Operand:
    """A constant input: its dtype, "" for that of the first input, and its shape.

    In `shape`, "C" is the number of channels of the first input, "*" any number from 1.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    optional: bool = False


@dataclass(frozen=True)
class Operation:
    """One operation: `data` computed inputs (least, most; None: any number), all of one type in `accepts`,
    then `operands`; `inputs` is the number of all of them (least, most).

    `check` raises for what the other fields cannot say.
    """

    name: str
    result: Callable[[Node, Graph], TensorType]
    interval: Callable[[Node, Graph], Interval]
    data: tuple[int, int | None] = (1, 1)
    accepts: tuple[str, ...] = STREAM
    operands: tuple[Operand, ...] = ()
    inputs: tuple[int, int | None] = (1, 1)
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    check: Callable[[Node, Graph], None] = lambda node, graph: None


def source_type(node: Node, graph: Graph) -> TensorType:
    """The type of the first input."""
    return graph.types[node.slots[0]]


def _same_stream(node: Node, graph: Graph) -> TensorType:
    return TensorType(*source_type(node, graph).shape, "int32")


def _code_type(node: Node, graph: Graph) -> TensorType:
    return TensorType(*source_type(node, graph).shape, ELEMENT_TYPES[node.attributes["to"]])


def _padded_type(node: Node, graph: Graph) -> TensorType:
    x = source_type(node, graph)
    _, _, top, left, _, _, bottom, right = node.attributes["pads"]
    return TensorType(x.height + top + bottom, x.width + left + right, x.channels, x.dtype)


def _conv_type(node: Node, graph: Graph) -> TensorType:
    x, weight = source_type(node, graph), constant(graph, node, 1)
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
    height, width = _window_counts(node, x, spans, node.attributes["strides"], node.attributes["pads"])
    return TensorType(height, width, out_channels, "int32")


def _pool_type(node: Node, graph: Graph) -> TensorType:
    x = source_type(node, graph)
    kernel, strides, pads = pool_geometry(node)
    height, width = _window_counts(node, x, kernel, strides, pads)
    return TensorType(height, width, x.channels, x.dtype)


def _window_counts(
    node: Node, x: TensorType, spans: tuple[int, int], strides: tuple[int, int], pads: tuple[int, ...]
) -> tuple[int, int]:
    """Rows and columns of windows; ShapeError where there is none, or the padded input is too large."""
    height, width = x.height + pads[0] + pads[2], x.width + pads[1] + pads[3]
    rows, columns = (height - spans[0]) // strides[0] + 1, (width - spans[1]) // strides[1] + 1
    if height * width * x.channels > MAX_ELEMENTS:
        raise ShapeError(
            f"the input of {node.label} is too large with its padding",
            received=[1, x.channels, height, width],
            valid=f"{MAX_ELEMENTS} elements",
        )
    if rows < 1 or columns < 1:
        raise ShapeError(
            f"{node.label} does not fit its input",
            received=f"input {list(x.nchw)}, windows of {spans[0]} x {spans[1]}, pads {list(pads)}",
        )
    return rows, columns


def _resized_type(node: Node, graph: Graph) -> TensorType:
    x = source_type(node, graph)
    rows, columns = resize_factors(node, graph)
    return TensorType(x.height * rows, x.width * columns, x.channels, x.dtype)


def _concat_type(node: Node, graph: Graph) -> TensorType:
    types = [graph.types[name] for name in node.slots]
    if len({(t.height, t.width) for t in types}) != 1:
        raise ShapeError(f"{node.label} joins unlike tensors", received=[list(t.nchw) for t in types[:4]])
    return TensorType(types[0].height, types[0].width, sum(t.channels for t in types), types[0].dtype)


def pool_geometry(node: Node) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int, int, int]]:
    """Kernel, strides and pads (top, left, bottom, right) of a MaxPool node or a MaxPool_k?s?p? function."""
    named = parse_pool_name(node.op)
    if named is not None:
        k, s, p = named
        return (k, k), (s, s), (p, p, p, p)
    return node.attributes["kernel_shape"], node.attributes["strides"], node.attributes["pads"]


def resize_factors(node: Node, graph: Graph) -> tuple[int, int]:
    """Whole upsampling factors (rows, columns) of a Resize by `scales` or `sizes`. Raises
    UnsupportedModelError.
    """
    x = source_type(node, graph)
    target = constant(graph, node, len(node.slots) - 1).tolist()
    scales = len(node.slots) == 3
    factors = target if scales else [size / old for size, old in zip(target, x.nchw, strict=True)]
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


def _check_conv(node: Node, graph: Graph) -> None:
    _check_auto_pad(node, graph)
    kernel = list(constant(graph, node, 1).shape[2:])
    given = node.attributes.get("kernel_shape")
    if given is not None and list(given) != kernel:
        raise ShapeError(
            f"the kernel_shape of {node.label} is not that of its weights",
            received=list(given),
            valid=str(kernel),
        )


def _check_auto_pad(node: Node, graph: Graph) -> None:
    if node.attributes["auto_pad"] == "VALID" and any(node.attributes["pads"]):
        raise UnsupportedModelError(f"{node.label} has pads beside auto_pad VALID", valid="auto_pad NOTSET")


def _check_pool(node: Node, graph: Graph) -> None:
    """Each pad is smaller than the kernel: a window of padding alone would have no maximum."""
    kernel, _, pads = pool_geometry(node)
    if node.op == "MaxPool":
        _check_auto_pad(node, graph)
    x = source_type(node, graph)
    if not pool_fits(kernel, (x.height, x.width)):
        raise ShapeError(
            f"the window of {node.label} is far larger than its tensor",
            received=f"kernel {list(kernel)}, {x.height} x {x.width} elements",
            valid=f"up to {SMALL_POOL}, or twice the tensor's size",
        )
    if max(pads[0], pads[2]) >= kernel[0] or max(pads[1], pads[3]) >= kernel[1]:
        raise ShapeError(
            f"a window of {node.label} could lie in the padding alone",
            received=f"kernel {list(kernel)}, pads {list(pads)}",
            valid="pads smaller than the kernel",
        )


def _check_conv_odd(node: Node, graph: Graph) -> None:
    """ "ones s8 of shape [group, I, kh, kw] all 1"; group is 1."""
    weight, ones = constant(graph, node, 1), constant(graph, node, 2)
    if ones.shape != (1, *weight.shape[1:]) or not (ones == 1).all():
        raise UnsupportedModelError(
            f"the third input of {node.label} is not ones",
            received=f"shape {list(ones.shape)}, values from {ones.min()} to {ones.max()}",
            valid=f"shape {[1, *weight.shape[1:]]}, all 1",
        )


def _check_image_pads(node: Node, graph: Graph) -> None:
    pads = node.attributes["pads"]
    if any(pads[i] for i in (0, 1, 4, 5)):
        raise UnsupportedModelError(
            f"{node.label} pads more than rows and columns",
            received=list(pads),
            valid="[0, 0, top, left, 0, 0, bottom, right]",
        )


def _check_requantize(node: Node, graph: Graph) -> None:
    _check_levels(node, node.attributes["lo"], node.attributes["hi"])


def _check_threshold(node: Node, graph: Graph) -> None:
    lo = node.attributes["lo"]
    _check_levels(node, lo, lo + constant(graph, node, 2).shape[0])


def _check_levels(node: Node, lo: int, hi: int) -> None:
    """lo ≤ hi, both of the type `to`."""
    limits = np.iinfo(ELEMENT_TYPES[node.attributes["to"]])
    if not limits.min <= lo <= hi <= limits.max:
        raise UnsupportedModelError(
            f"{node.label} clips to levels that {limits.dtype} does not hold in order",
            received=f"lo = {lo}, hi = {hi}",
            valid=f"{limits.min} <= lo <= hi <= {limits.max}",
        )


def _check_resize(node: Node, graph: Graph) -> None:
    if len([name for name in node.slots if name]) != 2:
        raise UnsupportedModelError(
            f"Resize {node.name} has other inputs than one of scales and sizes", received=list(node.slots)
        )


PER_CHANNEL = (1, "C", 1, 1)
WEIGHT = Operand("w", "int8", ("*", "*", "*", "*"))


def _multiply_shift_operands(suffix: str = "") -> tuple[Operand, ...]:
    return (
        Operand(f"c{suffix}", "int64", PER_CHANNEL),
        Operand(f"B{suffix}", "int64", PER_CHANNEL),
        Operand(f"d{suffix}", "uint64", PER_CHANNEL),
    )


_CONV = {"strides": a.pair(), "pads": a.PADS, "dilations": a.pair()}
_POOL_FUNCTION = Operation("MaxPool", _pool_type, intervals.of_data, check=_check_pool)
_STANDARD = (
    Operation(
        "ConvInteger",
        _conv_type,
        intervals.of_convolution,
        accepts=CODES,
        operands=(WEIGHT, Operand("x_zero_point", "", (), optional=True)),
        inputs=(2, 3),
        attributes={**_CONV, "group": a.GROUP, "kernel_shape": a.KERNEL, "auto_pad": a.AUTO_PAD},
        check=_check_conv,
    ),
    Operation(
        "Add",
        _same_stream,
        intervals.of_add,
        data=(1, 2),
        operands=(Operand("bias", "int32", PER_CHANNEL),),
        inputs=(2, 2),
    ),
    Operation(
        "Max",
        _same_stream,
        intervals.of_max,
        operands=(Operand("zero", "int32", ()),),
        inputs=(2, 2),
    ),
    Operation(
        "MaxPool",
        _pool_type,
        intervals.of_data,
        accepts=CODES,
        attributes={
            "kernel_shape": a.pair(None),
            "strides": a.pair(),
            "pads": a.PADS,
            "dilations": a.NO_DILATIONS,
            "ceil_mode": a.ZERO,
            "storage_order": a.ZERO,
            "auto_pad": a.AUTO_PAD,
        },
        check=_check_pool,
    ),
    Operation(
        "Resize",
        _resized_type,
        intervals.of_data,
        accepts=ANY,
        operands=(
            Operand("roi", "float32", (0,), optional=True),
            Operand("scales", "float32", (4,), optional=True),
            Operand("sizes", "int64", (4,), optional=True),
        ),
        inputs=(3, 4),
        attributes={
            "mode": a.word("nearest"),
            "coordinate_transformation_mode": a.word("asymmetric"),
            "nearest_mode": a.word("floor"),
        },
        check=_check_resize,
    ),
    Operation("Cast", _same_stream, intervals.of_data, accepts=CODES, attributes={"to": a.STREAM_TYPE}),
    Operation(
        "Concat",
        _concat_type,
        intervals.of_concat,
        data=(1, None),
        accepts=ANY,
        inputs=(1, None),
        attributes={"axis": a.CHANNEL_AXIS},
    ),
    Operation("Identity", source_type, intervals.of_data, accepts=ANY),
)
_DIALECT = (
    Operation(
        "PadImage",
        _padded_type,
        intervals.of_pad_image,
        accepts=("uint8",),
        operands=(Operand("values", "uint8", PER_CHANNEL),),
        inputs=(2, 2),
        attributes={"pads": a.IMAGE_PADS},
        check=_check_image_pads,
    ),
    Operation(
        "ConvOdd",
        _conv_type,
        intervals.of_convolution,
        accepts=("uint8",),
        operands=(WEIGHT, Operand("ones", "int8", (1, "C", "*", "*"))),
        inputs=(3, 3),
        attributes={**_CONV, "group": Attribute(AttributeProto.INT, 1, choices=(1,))},
        check=_check_conv_odd,
    ),
    Operation(
        "MultiplyShift",
        _same_stream,
        intervals.of_multiply_shift,
        operands=_multiply_shift_operands(),
        inputs=(4, 4),
    ),
    Operation(
        "Requantize",
        _code_type,
        intervals.of_requantize,
        operands=_multiply_shift_operands(),
        inputs=(4, 4),
        attributes={"lo": a.LEVEL, "hi": a.LEVEL, "to": a.CODE_TYPE},
        check=_check_requantize,
    ),
    Operation(
        "Threshold",
        _code_type,
        intervals.of_threshold,
        operands=(Operand("sign", "int32", PER_CHANNEL), Operand("T", "int32", ("*", *PER_CHANNEL))),
        inputs=(3, 3),
        attributes={"lo": a.LEVEL, "to": a.CODE_TYPE},
        check=_check_threshold,
    ),
    Operation(
        "SkipAdd",
        _same_stream,
        intervals.of_skip_add,
        data=(2, 2),
        operands=(*_multiply_shift_operands("a"), *_multiply_shift_operands("b")),
        inputs=(8, 8),
    ),
)
STANDARD = {operation.name: operation for operation in _STANDARD}
DIALECT = {operation.name: operation for operation in _DIALECT}


def operation_of(domain: str, op_type: str) -> Operation:
    """The entry of a node. Raises KeyError for an operation that the dialect does not have."""
    if domain == "":
        return STANDARD[op_type]
    if domain != DOMAIN:
        raise KeyError(op_type)
    return _POOL_FUNCTION if parse_pool_name(op_type) else DIALECT[op_type]
