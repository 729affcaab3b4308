"""Depthwise convolution: a vector of channels at a time, each channel with its own kernel.

There is nothing to sum over channels, so dot products do not help; the products are 32-bit in every
instruction set. Odd weights need no window sum here: 2w + 1 is computed on the way.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx

from aqd_deploy.kernels.dots import DOTS
from aqd_deploy.kernels.emit import Emitter, Expr, const, convert, load
from aqd_deploy.kernels.epilogue import bind_epilogue
from aqd_deploy.kernels.isa import Isa
from aqd_deploy.kernels.layout import WeightLayout
from aqd_deploy.kernels.spec import ConvSpec, Epilogue
from aqd_deploy.kernels.strip import make_strip

LANES = {isa: 16 if isa in (Isa.VNNI, Isa.AVX512) else 8 for isa in Isa}
# Rows of output that one task computes from one padded copy.
ROWS = 8


def is_depthwise(spec: ConvSpec) -> bool:
    """One input and one output channel a group."""
    return spec.group > 1 and spec.group == spec.in_channels == spec.out_channels


def depthwise_layout(spec: ConvSpec, isa: Isa) -> WeightLayout:
    """[C/lanes, kh, 1, kw, lanes, 1]."""
    return WeightLayout(spec.out_channels, 1, spec.kernel, LANES[isa], 1)


def conv_depthwise(spec: ConvSpec, epilogue: Epilogue, isa: Isa, threads: int) -> Any:
    """PrimFunc of a depthwise convolution; parameters as in `spec.Epilogue`."""
    em = Emitter()
    lanes, layout = LANES[isa], depthwise_layout(spec, isa)
    data = em.parameter(
        "data", (spec.height, spec.width, spec.in_channels), "int8" if spec.input_signed else "uint8"
    )
    weights = em.parameter("weights", layout.shape, "int8")
    bound = bind_epilogue(em, epilogue, spec.out_height, spec.out_width, spec.out_channels)
    kh, kw = spec.kernel
    rows = min(ROWS, spec.out_height)
    rest = spec.out_channels % lanes
    # The last vector of channels reads behind its pixel; behind the last pixel the copy has room for it.
    slack = lanes - rest if rest else 0
    copies = any(spec.pads) or bool(slack)
    strips = -(-spec.out_height // rows)
    with em.loop("task", strips, "parallel" if threads > 1 else "serial") as task:
        top = em.bind("top", tirx.Min(task * rows, const(spec.out_height - rows)))
        # Native samples: the portable product takes them as they are.
        strip = make_strip(em, spec, DOTS[Isa.PORTABLE], data, top, rows, copies, slack)
        acc = em.alloc("acc", "int32", lanes, "local")
        spilled = em.alloc("spilled", "int32", lanes)

        def reduce(y: Expr, x: Expr, block: Expr) -> None:
            em.store(acc, 0, const(0, "int32", lanes), lanes)
            with em.loop("ky", kh) as ky, em.loop("kx", kw) as kx:
                row = y * spec.strides[0] + ky * spec.dilations[0]
                column = x * spec.strides[1] + kx * spec.dilations[1]
                at = strip.origin + row * strip.row_stride + column * spec.in_channels + block * lanes
                sample = convert(load(strip.samples, at, lanes), "int32", lanes)
                weight = load(weights, ((block * kh + ky) * kw + kx) * lanes, lanes)
                weight = convert(weight, "int32", lanes)
                if spec.odd:
                    weight = weight * const(2, "int32", lanes) + const(1, "int32", lanes)
                em.store(acc, 0, load(acc, const(0), lanes) + sample * weight, lanes)

        with em.loop("y", rows) as y, em.loop("x", spec.out_width) as x:
            full = spec.out_channels // lanes
            if full:
                with em.loop("block", full) as block:
                    reduce(y, x, block)
                    value = em.bind("v", load(acc, const(0), lanes))
                    bound.emit(em, value, bound.at(top + y, x), block * lanes, lanes)
            if rest:
                reduce(y, x, const(full))
                em.store(spilled, 0, load(acc, const(0), lanes), lanes)
                with em.loop("lane", rest) as lane:
                    value = em.bind("v", load(spilled, lane))
                    bound.emit(em, value, bound.at(top + y, x), lane + full * lanes, 1)
    return em.finish()
