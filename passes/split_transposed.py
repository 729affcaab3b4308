"""Makes a transposed convolution of a convolution and a placing of pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.passes.contract import Lowering, Pass, PassResult, none_left
from aqd_deploy.passes.foreign_operations import DepthToSpace, Slice
from aqd_deploy.passes.graph import Graph, Node, Quantized
from aqd_deploy.passes.operations import Conv, ConvTranspose, DequantizeLinear, FileOperation, Window


class SplitTransposed(Pass):
    """Of stride s, each of the s·s phases of the result is a convolution of the input; one convolution makes
    them all as channels.

        x ── ConvTranspose(w, s) ── y        x ── Conv(w', 1) ── DepthToSpace(s, CRD) ── Slice ── y

    y[s·m + r − cut] = Σ_e x[m − e]·w[s·e + r + p], e over whole numbers with 0 ≤ s·e + r + p < k: the tap of
    w' at u = e_max − e, in channel o·s² + r. Where w has no such tap w' is 0. p is the pad, or 0 where that
    needs a smaller kernel; then `cut` = pad.

    1. A stride of more than 1. The Slice is left out where nothing is cut.
    2. A stride of 1: the Conv of the turned weights alone.
    """

    name = "split_transposed"

    def requires(self, state: Lowering) -> None:
        """Folded quantizers: the weights are integers."""
        none_left(state.graph, FileOperation, DequantizeLinear)

    def ensures(self, state: Lowering) -> None:
        """No transposed convolution."""
        none_left(state.graph, ConvTranspose)

    def run(self, state: Lowering) -> PassResult:
        """UnsupportedModelError for weights that aren't quantized, and for two strides."""
        result, nodes = PassResult(self.name), []
        for node in state.graph.nodes:
            if isinstance(node.op, ConvTranspose):
                nodes += _split(state.graph, node, node.op)
                result.changed.append(f"{node.label}: a convolution of {node.op.window.strides[0]}² phases")
            else:
                nodes.append(node)
        state.graph.nodes = nodes
        return result


@dataclass(frozen=True)
class _Phases:
    """One axis: taps [stride, size] of every phase, −1 where it has none; pads before and behind; the number
    of rows that the convolution makes; the first row of the result among those of all phases.
    """

    taps: np.ndarray
    before: int
    behind: int
    count: int
    cut: int


def _phases(size: int, target: int, kernel: int, stride: int, pad: int) -> _Phases:
    """The phases with the smallest kernel; of equal ones those that cut nothing."""
    options = []
    for shift in {pad, 0}:
        last, first = (kernel - 1 - shift) // stride, -((stride - 1 + shift) // stride)
        if last < 0:
            continue
        cut = pad - shift
        count = max(-(-(cut + target) // stride), size + first)
        u = np.arange(last - first + 1)
        taps = stride * (last - u)[None, :] + np.arange(stride)[:, None] + shift
        taps = np.where((taps >= 0) & (taps < kernel), taps, -1)
        options.append(_Phases(taps, last, count - size - first, count, cut))
    return min(options, key=lambda each: (each.taps.shape[1], each.cut, each.count))


def _split(graph: Graph, node: Node, op: ConvTranspose) -> list[Node]:
    weights = graph.quantized.get(node.inputs[1])
    stride = op.window.strides[0]
    if op.window.strides != (stride, stride) or weights is None:
        raise UnsupportedModelError(
            f"node {node.label}: a transposed convolution with strides {list(op.window.strides)}"
            + ("" if weights is not None else " and weights that aren't quantized"),
            valid="one stride, weights behind a DequantizeLinear",
        )
    _, _, *sizes = graph.shapes[node.inputs[0]]
    axes = [_phases(sizes[i], op.size[i], op.window.kernel[i], stride, op.window.pads[i]) for i in (0, 1)]
    rows, columns = axes
    pads = (rows.before, columns.before, rows.behind, columns.behind)
    inputs = [node.inputs[0], _weights(graph, node, op, weights, axes)]
    if len(node.inputs) > 2 and node.inputs[2]:
        inputs.append(_bias(graph, node.inputs[2], stride))
    channels = graph.shapes[node.output][1]
    window = Window((rows.taps.shape[1], columns.taps.shape[1]), (1, 1), pads)
    made = [(Conv(window, op.group), (channels * stride**2, rows.count, columns.count))]
    if stride > 1:
        made.append((DepthToSpace(stride, "CRD"), (channels, rows.count * stride, columns.count * stride)))
    bounds = [(axis.cut, axis.cut + target, 1) for axis, target in zip(axes, op.size, strict=True)]
    if any(axis.count * stride != target for axis, target in zip(axes, op.size, strict=True)):
        made.append((Slice((2, 3), tuple(bounds)), (channels, *op.size)))
    nodes: list[Node] = []
    for index, (operation, shape) in enumerate(made):
        last = index == len(made) - 1
        output = node.output if last else graph.fresh(f"{node.output}_phases")
        graph.shapes[output] = (1, *shape)
        nodes.append(Node(operation, inputs, output, node.source))
        inputs = [output]
    return nodes


def _weights(graph: Graph, node: Node, op: ConvTranspose, weights: Quantized, axes: list[_Phases]) -> str:
    """w' [O·s², I / group, kh, kw] of w [I, O / group, kh, kw], under a name of its own."""
    if len(weights.scales) > 1 and weights.axis != 1:
        raise UnsupportedModelError(
            f"node {node.label}: {len(weights.scales)} scales along axis {weights.axis} of its weights",
            valid="one, or one an output channel (axis 1)",
            next_command="quantize the weights of transposed convolutions along axis 1, or with one scale",
        )
    rows, columns = (axis.taps for axis in axes)
    stride, per_group = len(rows), weights.values.shape[1]
    grouped = weights.values.reshape(op.group, -1, *weights.values.shape[1:])
    found = grouped[..., rows[:, None, :, None], columns[None, :, None, :]]
    found = np.where((rows[:, None, :, None] < 0) | (columns[None, :, None, :] < 0), 0, found)
    # [group, I, O, sh, sw, kh, kw] to [group, O, sh, sw, I, kh, kw].
    values = found.transpose(0, 2, 3, 4, 1, 5, 6).reshape(-1, grouped.shape[1], *found.shape[-2:])
    scales = weights.scales
    if len(scales) > 1:
        scales = [scale for scale in scales for _ in range(stride**2)] * op.group
    assert len(scales) in (1, op.group * per_group * stride**2), "one an output channel"
    name = graph.fresh(f"{node.inputs[1]}_phases")
    graph.quantized[name] = Quantized(f"{weights.name}_phases", values, scales, 0)
    graph.shapes[name] = values.shape
    return name


def _bias(graph: Graph, name: str, stride: int) -> str:
    """The bias of every phase."""
    repeated = graph.fresh(f"{name}_phases")
    count = stride**2
    quantized = graph.quantized.get(name)
    if quantized is None:
        graph.constants[repeated] = np.repeat(graph.constants[name], count)
    else:
        scales = quantized.scales
        scales = scales if len(scales) == 1 else [scale for scale in scales for _ in range(count)]
        values = np.repeat(quantized.values, count)
        graph.quantized[repeated] = Quantized(quantized.name, values, scales, 0)
    graph.shapes[repeated] = (count * graph.shapes[name][0],)
    return repeated
