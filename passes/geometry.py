"""Windows and upsampling: what their attributes come to for the shapes at hand, checked before use.

Sizes are whole numbers of Python here, so no attribute of a damaged file can overflow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from aqd_deploy.errors import ShapeError, UnsupportedModelError
from aqd_deploy.integer.types import SMALL_POOL, pool_fits
from aqd_deploy.passes.constants import constant
from aqd_deploy.passes.foreign_operations import DepthToSpace, Rearrange, Slice
from aqd_deploy.passes.graph import Graph, Node
from aqd_deploy.passes.integer_operations import StreamPool
from aqd_deploy.passes.operations import (
    AveragePool,
    Conv,
    ConvTranspose,
    LinearResize,
    MaxPool,
    Resize,
    Window,
)


def convolution(graph: Graph, node: Node, attributes: Mapping[str, Any]) -> Conv:
    """A convolution; UnsupportedModelError or ShapeError for a window that doesn't fit its tensors."""
    shape = graph.shapes.get(node.inputs[1], ())
    named = attributes.get("kernel_shape")
    if len(shape) != 4:
        raise ShapeError(
            f"node {node.label}: weights of {len(shape)} dimensions",
            received=list(shape),
            valid="[O, I, kh, kw]",
        )
    if named is not None and list(named) != list(shape[2:]):
        raise ShapeError(
            f"node {node.label}: its kernel_shape isn't that of its weights",
            received=list(named),
            valid=str(list(shape[2:])),
        )
    window = _window(graph, node, attributes, shape[2:])
    group = int(attributes.get("group", 1))
    _check_channels(graph, node, group)
    return Conv(window, group)


def transposed_convolution(graph: Graph, node: Node, attributes: Mapping[str, Any]) -> ConvTranspose:
    """A transposed convolution; its pads are those that cut its result. UnsupportedModelError or ShapeError
    for one without weights [I, O / group, kh, kw] or with dilations.
    """
    shape = graph.shapes.get(node.inputs[1], ())
    source, target = graph.shapes[node.inputs[0]], graph.shapes[node.output]
    group = int(attributes.get("group", 1))
    strides, dilations = (tuple(attributes.get(name, [1, 1])) for name in ("strides", "dilations"))
    if len(shape) != 4 or shape[0] != source[1] or source[1] % group or shape[1] * group != target[1]:
        raise ShapeError(
            f"node {node.label}: weights that don't fit its channels",
            received=list(shape),
            valid="[I, O / group, kh, kw]",
        )
    if dilations != (1, 1):
        raise UnsupportedModelError(
            f"node {node.label}: a transposed convolution with dilations",
            received=list(dilations),
            valid="[1, 1]",
        )
    mode = attributes.get("auto_pad", "NOTSET")
    pads = list(attributes.get("pads", [0, 0, 0, 0])) if mode in ("NOTSET", "") else [0, 0, 0, 0]
    if mode in ("SAME_UPPER", "SAME_LOWER") or "output_shape" in attributes:
        more = attributes.get("output_padding", [0, 0])
        pads = _cut(source[2:], target[2:], shape[2:], strides, more, mode)
    return ConvTranspose(Window(tuple(shape[2:]), strides, tuple(pads)), group, (target[2], target[3]))


def _cut(
    sizes: Sequence[int],
    targets: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    more: Sequence[int],
    mode: str,
) -> list[int]:
    """What a transposed convolution cuts off above and before where its result's size is given."""
    before = []
    for size, target, span, stride, extra in zip(sizes, targets, kernel, strides, more, strict=True):
        total = max(stride * (size - 1) + extra + span - target, 0)
        before.append(total // 2 if mode == "SAME_UPPER" else total - total // 2)
    return [*before, 0, 0]


def averaging(graph: Graph, node: Node, attributes: Mapping[str, Any]) -> AveragePool:
    """An average of windows, or of the whole map where there is no window."""
    sizes = graph.shapes[node.inputs[0]][2:]
    if "kernel_shape" not in attributes:
        return AveragePool(Window(sizes, (1, 1), (0, 0, 0, 0)), True)
    window = _window(graph, node, attributes, attributes["kernel_shape"])
    named = _explicit_pads(attributes, sizes, window.kernel, window.strides)
    counted = bool(attributes.get("count_include_pad", 0)) and tuple(named) == window.pads
    return AveragePool(_fitting(graph, node, window), counted)


def pooling(graph: Graph, node: Node, attributes: Mapping[str, Any]) -> MaxPool:
    """A pooling; UnsupportedModelError or ShapeError for a window that doesn't fit its tensor."""
    return MaxPool(_fitting(graph, node, _window(graph, node, attributes, attributes["kernel_shape"])))


def _fitting(graph: Graph, node: Node, window: Window) -> Window:
    """The window, unless it is far larger than its tensor or can lie in the padding alone."""
    sizes = graph.shapes[node.inputs[0]]
    if not pool_fits(window.kernel, sizes[2:]):
        raise UnsupportedModelError(
            f"node {node.label}: the window of this {node.op.name} is far larger than its tensor",
            received=f"kernel {list(window.kernel)}, {sizes[2]} x {sizes[3]} elements",
            valid=f"up to {SMALL_POOL}, or twice the tensor's size",
        )
    if any(pad >= window.kernel[i % 2] for i, pad in enumerate(window.pads)):
        raise UnsupportedModelError(
            f"node {node.label}: a window of this {node.op.name} can lie in the padding alone",
            received=f"kernel {list(window.kernel)}, pads {list(window.pads)}",
            valid="pads smaller than the kernel",
        )
    return window


def _window(graph: Graph, node: Node, attributes: Mapping[str, Any], kernel: Sequence[int]) -> Window:
    """The explicit window: `auto_pad` and `ceil_mode` become pads, checked against the node's output."""
    source, target = graph.shapes[node.inputs[0]], graph.shapes[node.output]
    strides, dilations = (list(attributes.get(name, [1, 1])) for name in ("strides", "dilations"))
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads = _explicit_pads(attributes, source[2:], spans, strides)
    if attributes.get("ceil_mode", 0):
        pads = _completed_pads(pads, source[2:], target[2:], spans, strides)
    for axis in (0, 1):
        padded = source[2 + axis] + pads[axis] + pads[axis + 2]
        if padded < spans[axis] or (padded - spans[axis]) // strides[axis] + 1 != target[2 + axis]:
            raise ShapeError(
                f"node {node.label}: a window of {list(kernel)}, strides {strides}, pads {pads} doesn't make "
                f"{list(target)} of {list(source)}"
            )
    return Window(tuple(kernel), tuple(strides), tuple(pads), tuple(dilations))


def _explicit_pads(
    attributes: Mapping[str, Any], sizes: Sequence[int], spans: Sequence[int], strides: Sequence[int]
) -> list[int]:
    """[top, left, bottom, right]. SAME pads to ⌈size / stride⌉ windows; the odd one goes below or above."""
    mode = attributes.get("auto_pad", "NOTSET")
    if mode in ("NOTSET", ""):
        return list(attributes.get("pads", [0, 0, 0, 0]))
    if mode == "VALID":
        return [0, 0, 0, 0]
    before, after = [], []
    for size, span, stride in zip(sizes, spans, strides, strict=True):
        missing = max((-(-size // stride) - 1) * stride + span - size, 0)
        small, large = missing // 2, missing - missing // 2
        before.append(small if mode == "SAME_UPPER" else large)
        after.append(large if mode == "SAME_UPPER" else small)
    return [*before, *after]


def _completed_pads(
    pads: list[int],
    sizes: Sequence[int],
    targets: Sequence[int],
    spans: Sequence[int],
    strides: Sequence[int],
) -> list[int]:
    """Pads with which the last window of `ceil_mode` is a whole one."""
    pads = list(pads)
    for axis in (0, 1):
        reached = (targets[axis] - 1) * strides[axis] + spans[axis]
        pads[axis + 2] = max(reached - sizes[axis] - pads[axis], pads[axis + 2])
    return pads


def _check_channels(graph: Graph, node: Node, group: int) -> None:
    channels = graph.shapes[node.inputs[0]][1]
    out_channels, per_group = graph.shapes[node.inputs[1]][:2]
    if per_group * group != channels or out_channels % group:
        raise ShapeError(
            f"node {node.label}: {channels} channels, weights {list(graph.shapes[node.inputs[1]])} and "
            f"group {group} don't fit together",
            valid="weights [O, channels / group, kh, kw] with group a divisor of O",
        )


def square_pool(node: Node, window: Window) -> StreamPool:
    """The pooling of an int32 stream; UnsupportedModelError for a window that the dialect has no function
    for.
    """
    if not window.is_square:
        raise UnsupportedModelError(
            f"node {node.label}: MaxPool of an integer stream with kernel {list(window.kernel)}, strides "
            f"{list(window.strides)}, pads {list(window.pads)}",
            valid="a square kernel, one stride, the same pad on all sides (any where a quantizer reads it)",
        )
    return StreamPool(window.kernel[0], window.strides[0], window.pads[0])


def upsampling(graph: Graph, node: Node, attributes: Mapping[str, Any]) -> Resize | LinearResize:
    """A Resize by whole factors, linear or by nearest neighbours that repeat each element; others are an
    UnsupportedModelError.

    The shapes alone don't tell: a factor of 2.05 makes 16 rows of 8, but other ones than 2 does.
    """
    source, target = graph.shapes[node.inputs[0]], graph.shapes[node.output]
    factors = (target[2] // source[2], target[3] // source[3])
    exact = (source[2] * factors[0], source[3] * factors[1]) == target[2:] and source[:2] == target[:2]
    shown = f"from {list(source)} to {list(target)}"
    if len(node.inputs) > 2 and node.inputs[2]:
        scales = constant(graph, node, node.inputs[2], "scales")
        if scales.size:
            axes = [axis % 4 for axis in attributes.get("axes", range(4))]
            wanted = [(1, 1, *factors)[axis] for axis in axes]
            exact = exact and np.asarray(scales, dtype=np.float64).tolist() == wanted
            shown += f" by {scales.tolist()}"
    if not exact:
        raise UnsupportedModelError(
            f"node {node.label}: Resize {shown}", valid="whole factors of height and width"
        )
    place = attributes.get("coordinate_transformation_mode", "half_pixel")
    # They differ where a side shrinks to one element, which upsampling never does.
    place = "half_pixel" if place == "pytorch_half_pixel" else place
    if attributes.get("mode", "nearest") == "linear":
        return LinearResize(factors, place == "half_pixel")
    rounding = attributes.get("nearest_mode", "round_prefer_floor")
    if (place, rounding) not in _REPEATING:
        raise UnsupportedModelError(
            f"node {node.label}: Resize to the nearest element, with other modes than those that repeat it",
            received=f"{place} with {rounding}",
            valid=" or ".join(" with ".join(each) for each in _REPEATING),
        )
    return Resize(factors)


_REPEATING = (
    ("asymmetric", "floor"),
    ("half_pixel", "round_prefer_floor"),
    ("half_pixel", "round_prefer_ceil"),
)
"""By whole factors these repeat each element: (i + ½)/f − ½ lies within half an element of ⌊i/f⌋."""


def pixel_strides(graph: Graph) -> dict[str, tuple[Fraction, Fraction]]:
    """How many pixels of the input lie between two neighbours of each computed tensor, down and across."""
    strides = {name: (Fraction(1), Fraction(1)) for name in graph.inputs}
    for node in graph.nodes:
        found = next((strides[name] for name in node.inputs if name in strides), None)
        if found is None:
            continue
        if isinstance(node.op, (Conv, MaxPool, AveragePool)):
            down, across = node.op.window.strides
            found = (found[0] * down, found[1] * across)
        elif isinstance(node.op, (Resize, LinearResize)):
            down, across = node.op.factors
            found = (found[0] / down, found[1] / across)
        elif isinstance(node.op, ConvTranspose):
            down, across = node.op.window.strides
            found = (found[0] / down, found[1] / across)
        elif isinstance(node.op, DepthToSpace):
            found = (found[0] / node.op.blocksize, found[1] / node.op.blocksize)
        elif isinstance(node.op, Slice):
            steps = {axis: step for axis, (_, _, step) in zip(node.op.axes, node.op.bounds, strict=True)}
            found = (found[0] * steps.get(2, 1), found[1] * steps.get(3, 1))
        elif isinstance(node.op, Rearrange):
            old, new = graph.shapes[node.inputs[0]], graph.shapes[node.output]
            found = (found[0] * Fraction(old[2], new[2]), found[1] * Fraction(old[3], new[3]))
        strides[node.output] = found
    return strides
