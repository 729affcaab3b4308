"""Windows, upsampling and joins: what their attributes come to for the shapes at hand, checked before use.

Sizes are whole numbers of Python here, so no attribute of a damaged file can overflow.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from aqd_deploy.errors import ShapeError, UnsupportedModelError
from aqd_deploy.integer.operations.pools import pool_name
from aqd_deploy.integer.types import SMALL_POOL, pool_fits
from aqd_deploy.passes.graph import Graph, Node


def windowed(graph: Graph, node: Node) -> Node:
    """A Conv or MaxPool with explicit, checked attributes: `auto_pad` and `ceil_mode` become pads.

    UnsupportedModelError or ShapeError for a window that doesn't fit its tensors.
    """
    a = node.attributes
    source, target = graph.shapes[node.inputs[0]], graph.shapes[node.output]
    kernel = _kernel(graph, node)
    strides, dilations = list(a.get("strides", [1, 1])), list(a.get("dilations", [1, 1]))
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads = _explicit_pads(a, source[2:], spans, strides)
    if a.get("ceil_mode", 0):
        pads = _completed_pads(pads, source[2:], target[2:], spans, strides)
    for axis in (0, 1):
        padded = source[2 + axis] + pads[axis] + pads[axis + 2]
        if padded < spans[axis] or (padded - spans[axis]) // strides[axis] + 1 != target[2 + axis]:
            raise ShapeError(
                f"node {node.label}: a window of {kernel}, strides {strides}, pads {pads} doesn't make "
                f"{list(target)} of {list(source)}"
            )
    result: dict[str, object] = {"kernel_shape": kernel, "strides": strides, "pads": pads}
    if node.op == "Conv":
        group = int(a.get("group", 1))
        result |= {"dilations": dilations, "group": group}
        _check_channels(graph, node, group)
    elif not pool_fits(kernel, source[2:]):
        raise UnsupportedModelError(
            f"node {node.label}: the window of this MaxPool is far larger than its tensor",
            received=f"kernel {kernel}, {source[2]} x {source[3]} elements",
            valid=f"up to {SMALL_POOL}, or twice the tensor's size",
        )
    elif any(pad >= kernel[i % 2] for i, pad in enumerate(pads)):
        raise UnsupportedModelError(
            f"node {node.label}: a window of this MaxPool can lie in the padding alone",
            received=f"kernel {kernel}, pads {pads}",
            valid="pads smaller than the kernel",
        )
    return Node(node.op, node.inputs, node.output, result, node.source)


def _kernel(graph: Graph, node: Node) -> list[int]:
    """Kernel [kh, kw]; a convolution has its weights'."""
    named = node.attributes.get("kernel_shape")
    if node.op != "Conv":
        return list(named)
    shape = graph.shapes.get(node.inputs[1], ())
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
    return list(shape[2:])


def _explicit_pads(
    attributes: dict, sizes: Sequence[int], spans: Sequence[int], strides: Sequence[int]
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


def square_pool(node: Node) -> str:
    """The dialect's name of an int32 pooling; UnsupportedModelError for a configuration it has no function
    for.
    """
    a = node.attributes
    kernel, strides, pads = a["kernel_shape"], a["strides"], a["pads"]
    if not len({*kernel}) == len({*strides}) == len({*pads}) == 1:
        raise UnsupportedModelError(
            f"node {node.label}: MaxPool of an integer stream with kernel {kernel}, strides {strides}, "
            f"pads {pads}",
            valid="a square kernel, one stride, the same pad on all sides (any where a quantizer reads it)",
        )
    return pool_name(kernel[0], strides[0], pads[0])


def upsampling(graph: Graph, node: Node) -> tuple[int, int]:
    """(vertical, horizontal) whole factors of a nearest, asymmetric, floor Resize; UnsupportedModelError
    for others.

    The shapes alone don't tell: a factor of 2.05 makes 16 rows of 8, but other ones than 2 does.
    """
    source, target = graph.shapes[node.inputs[0]], graph.shapes[node.output]
    factors = (target[2] // source[2], target[3] // source[3])
    exact = (source[2] * factors[0], source[3] * factors[1]) == target[2:] and source[:2] == target[:2]
    scales = graph.constants.get(node.inputs[2]) if len(node.inputs) > 2 else None
    shown = f"from {list(source)} to {list(target)}"
    if scales is not None and scales.size:
        axes = [axis % 4 for axis in node.attributes.get("axes", range(4))]
        wanted = [(1, 1, *factors)[axis] for axis in axes]
        exact = exact and np.asarray(scales, dtype=np.float64).tolist() == wanted
        shown += f" by {scales.tolist()}"
    if not exact:
        raise UnsupportedModelError(
            f"node {node.label}: Resize {shown}", valid="whole factors of height and width"
        )
    return factors


def pixel_strides(graph: Graph) -> dict[str, tuple[Fraction, Fraction]]:
    """How many pixels of the input lie between two neighbours of each computed tensor, down and across;
    windows are explicit. UnsupportedModelError for a Resize that `upsampling` refuses.
    """
    strides = {name: (Fraction(1), Fraction(1)) for name in graph.inputs}
    for node in graph.nodes:
        found = next((strides[name] for name in node.inputs if name in strides), None)
        if found is None:
            continue
        if node.op in ("Conv", "MaxPool"):
            down, across = node.attributes["strides"]
            found = (found[0] * down, found[1] * across)
        elif node.op == "Resize":
            down, across = upsampling(graph, node)
            found = (found[0] / down, found[1] / across)
        strides[node.output] = found
    return strides
