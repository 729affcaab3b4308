"""The convolution that covers every geometry: plain loops, any group count, any dilation, any instruction
set.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx

from aqd_deploy.kernels.emit import Emitter, const, convert, load
from aqd_deploy.kernels.epilogue import bind_epilogue
from aqd_deploy.kernels.layout import WeightLayout
from aqd_deploy.kernels.spec import ConvSpec, Epilogue


def loops_layout(spec: ConvSpec) -> WeightLayout:
    """Output channel by output channel, kernel rows dense: [O, kh, kw·I]."""
    return WeightLayout(spec.out_channels, spec.in_channels // spec.group, spec.kernel, lanes=1, dot=1)


def conv_loops(spec: ConvSpec, epilogue: Epilogue, threads: int) -> Any:
    """PrimFunc of one output value at a time; parameters as in `spec.Epilogue`."""
    em = Emitter()
    data = em.parameter(
        "data",
        (spec.height, spec.width, spec.in_channels),
        "int8" if spec.input_signed else "uint8",
    )
    layout = loops_layout(spec)
    weights = em.parameter("weights", layout.shape, "int8")
    bound = bind_epilogue(em, epilogue, spec.out_height, spec.out_width, spec.out_channels)
    group_in = spec.in_channels // spec.group
    group_out = spec.out_channels // spec.group
    kh, kw = spec.kernel
    pads = _pad_table(em, spec)
    with em.loop("y", spec.out_height, "parallel" if threads > 1 else "serial") as y:
        acc = em.alloc("acc", "int32", 1, "local")
        total = em.alloc("total", "int32", 1, "local")
        with em.loop("x", spec.out_width) as x, em.loop("o", spec.out_channels) as o:
            em.store(acc, 0, const(0))
            em.store(total, 0, const(0))
            first = em.bind("first", (o // group_out) * group_in) if spec.group > 1 else const(0)
            with em.loop("ky", kh) as ky, em.loop("kx", kw) as kx:
                row = em.bind("row", y * spec.strides[0] + ky * spec.dilations[0] - spec.pads[0])
                column = em.bind("column", x * spec.strides[1] + kx * spec.dilations[1] - spec.pads[1])
                with em.loop("ci", group_in) as ci:
                    inside = tirx.all(row >= 0, row < spec.height, column >= 0, column < spec.width)
                    at = (row * spec.width + column) * spec.in_channels + first + ci
                    padding = load(pads, first + ci) if pads is not None else const(0)
                    sample = em.bind(
                        "sample", tirx.if_then_else(inside, convert(load(data, at), "int32"), padding)
                    )
                    weight = convert(load(weights, ((o * kh + ky) * kw + kx) * group_in + ci), "int32")
                    em.store(acc, 0, load(acc, const(0)) + sample * weight)
                    if spec.odd:
                        em.store(total, 0, load(total, const(0)) + sample)
            value = load(acc, const(0))
            if spec.odd:
                value = value * 2 + load(total, const(0))
            bound.emit(em, em.bind("v", value), bound.at(y, x), o, 1)
    return em.finish()


def _pad_table(em: Emitter, spec: ConvSpec) -> Any:
    """The padding value of each channel in a buffer, None where it is 0."""
    if spec.pad_values is None or not any(spec.pad_values):
        return None
    table = em.alloc("pads", "int32", spec.in_channels)
    for channel, value in enumerate(spec.pad_values):
        em.store(table, channel, const(value))
    return table
