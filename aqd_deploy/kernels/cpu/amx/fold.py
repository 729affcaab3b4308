"""Rows of a kernel folded into channels: a step multiplies 64 inputs, and a row of a stem's kernel has few.

Then row j of the frame holds rows j·s, j·s + d, j·s + 2d … of the input, column by column, for a vertical
stride s and dilation d, and the convolution has as many times fewer kernel rows, no vertical stride, and as
many times more channels. What the kernel lacks for whole rows are weights of zero.
"""

from __future__ import annotations

from dataclasses import replace

from aqd_deploy.kernels.contract.spec import ConvSpec
from aqd_deploy.kernels.cpu.amx.tiles import ROW_BYTES


def dense(spec: ConvSpec) -> bool:
    """Whether the columns of a kernel row are neighbours in the input."""
    return spec.kernel[1] == 1 or spec.dilations[1] == 1


def folded_rows(spec: ConvSpec) -> int:
    """Kernel rows that lie in one: those of one step, and no more than save steps; 1 where none do."""
    run = spec.in_channels * (spec.kernel[1] if dense(spec) else 1)
    rows, down = spec.kernel[0], spec.strides[0]
    whole = [n for n in range(1, rows + down) if n * run <= ROW_BYTES and n * spec.dilations[0] % down == 0]
    return min([1, *whole], key=lambda n: (-(-rows // n), n))


def folded(spec: ConvSpec, rows: int) -> ConvSpec:
    """`spec` with `rows` kernel rows in one; its input is the frame, vertical padding included."""
    if rows == 1:
        return spec
    kernel = (-(-spec.kernel[0] // rows), spec.kernel[1])
    down = rows * spec.dilations[0] // spec.strides[0]
    sizes = tuple((m.out_height + (kernel[0] - 1) * down, m.width) for m in spec.maps)
    return replace(
        spec,
        height=sum(h * w for h, w in sizes) if spec.levels else sizes[0][0],
        in_channels=spec.in_channels * rows,
        kernel=kernel,
        strides=(1, spec.strides[1]),
        pads=(0, spec.pads[1], 0, spec.pads[3]),
        dilations=(down, spec.dilations[1]),
        pad_values=spec.pad_values and spec.pad_values * rows,
        levels=sizes if spec.levels else (),
    )
