"""Sums of the samples under a convolution window, for odd weights: Σ x·(2w + 1) = 2·Σ x·w + Σ x.

Separable: channels of each input pixel first, then kernel rows, then kernel columns; so the cost is that of
reading the padded rows once, whatever the kernel.
"""

from __future__ import annotations

from tvm import tirx

from aqd_deploy.kernels.contract.spec import ConvSpec
from aqd_deploy.kernels.cpu.conv.padded_rows import PaddedRows
from aqd_deploy.kernels.cpu.emit import Buffer, Emitter, Expr, const, convert, load

LANES = 16


def window_sums(em: Emitter, spec: ConvSpec, strip: PaddedRows, rows: int, correction: int) -> Buffer:
    """int32 [rows · out_width]: for each output pixel of the padded rows, the sum of its window plus
    `correction`.
    """
    columns = (spec.out_width - 1) * spec.strides[1] + (spec.kernel[1] - 1) * spec.dilations[1] + 1
    in_rows = (rows - 1) * spec.strides[0] + (spec.kernel[0] - 1) * spec.dilations[0] + 1
    pixels = em.alloc("pixel_sums", "int32", in_rows * columns)
    vertical = em.alloc("column_sums", "int32", columns)
    sums = em.alloc("window_sums", "int32", rows * spec.out_width)
    with em.loop("sum_row", in_rows) as row, em.loop("sum_column", columns) as column:
        base = em.bind("base", strip.origin + row * strip.row_stride + column * spec.in_channels)
        em.store(pixels, row * columns + column, _channel_sum(em, strip.samples, base, spec.in_channels))
    with em.loop("sum_y", rows) as y:
        _add_rows(em, spec, pixels, vertical, y, columns)
        with em.loop("sum_x", spec.out_width) as x:
            total = const(correction)
            for kx in range(spec.kernel[1]):
                total = total + load(vertical, x * spec.strides[1] + kx * spec.dilations[1])
            em.store(sums, y * spec.out_width + x, total)
    return sums


def _channel_sum(em: Emitter, samples: Buffer, base: Expr, channels: int) -> Expr:
    """Sum of `channels` neighbours."""
    total = em.alloc("channel_sum", "int32", 1, "local")
    em.store(total, 0, const(0))
    full = channels // LANES
    if full:
        wide = em.alloc("channel_lanes", "int32", LANES)
        em.store(wide, 0, const(0, "int32", LANES), LANES)
        with em.loop("sum_c", full) as c:
            value = convert(load(samples, base + c * LANES, LANES), "int32", LANES)
            em.store(wide, 0, load(wide, const(0), LANES) + value, LANES)
        with em.loop("sum_lane", LANES) as lane:
            em.store(total, 0, load(total, const(0)) + load(wide, lane))
    if channels % LANES:
        with em.loop("sum_rest", channels % LANES) as c:
            value = convert(load(samples, base + (c + full * LANES)), "int32")
            em.store(total, 0, load(total, const(0)) + value)
    return load(total, const(0))


def _add_rows(em: Emitter, spec: ConvSpec, pixels: Buffer, vertical: Buffer, y: Expr, columns: int) -> None:
    """vertical[x] = Σ over kernel rows of the pixel sums in column x; the last vector is shifted back
    inside.
    """
    lanes = LANES if columns >= LANES else 1
    with em.loop("sum_xv", -(-columns // lanes)) as block:
        at = em.bind("at", tirx.Min(block * lanes, const(columns - lanes)))
        total = const(0, "int32", lanes)
        for ky in range(spec.kernel[0]):
            row = y * spec.strides[0] + ky * spec.dilations[0]
            total = total + load(pixels, row * columns + at, lanes)
        em.store(vertical, at, total, lanes)
