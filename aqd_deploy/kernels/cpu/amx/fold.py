"""Kernels of few channels, as a stem has them: a step multiplies 64 inputs, and one of their rows has few.

So the inputs that a pixel meets in several kernel rows lie together, in 64 bytes of its own. Row j of the
frame has for every output column the windows of rows j·s, j·s + d, j·s + 2d … of the input, for a vertical
stride s and dilation d. The convolution then has fewer kernel rows, each of one column, and no strides. And
tiles whose rows are whole cache lines load fast: one whose rows cross lines takes some 40 cycles more.
"""

from __future__ import annotations

from dataclasses import replace

from aqd_deploy.kernels.contract.spec import ConvSpec, Map
from aqd_deploy.kernels.cpu.amx.tiles import ROW_BYTES


def folded_rows(spec: ConvSpec) -> int:
    """Kernel rows that lie in one: those of one step, and no more than save steps; 1 where none do."""
    rows, columns = spec.kernel
    if _span(spec) * spec.in_channels > ROW_BYTES:
        return 1
    fitting = [n for n in range(2, rows + 1) if n * columns * spec.in_channels <= ROW_BYTES]
    # Folded rows after the first begin at rows of the frame.
    whole = [n for n in fitting if n == rows or n * spec.dilations[0] % spec.strides[0] == 0]
    return min([1, *whole], key=lambda n: (-(-rows // n), n))


def folded(spec: ConvSpec, rows: int) -> ConvSpec:
    """`spec` with `rows` kernel rows in one, as a convolution of the frame."""
    if rows == 1:
        return spec
    kernel = -(-spec.kernel[0] // rows)
    down = rows * spec.dilations[0] // spec.strides[0] if kernel > 1 else 1
    sizes = tuple((m.out_height + (kernel - 1) * down, m.out_width) for m in spec.maps)
    height, width = (sum(h * w for h, w in sizes), 1) if spec.levels else sizes[0]
    return replace(
        spec,
        height=height,
        width=width,
        in_channels=ROW_BYTES,
        kernel=(kernel, 1),
        strides=(1, 1),
        pads=(0, 0, 0, 0),
        dilations=(down, 1),
        pad_values=None,
        levels=sizes if spec.levels else (),
    )


def columns_of(spec: ConvSpec, m: Map) -> tuple[int, int, int]:
    """Columns that an output row of a map reads: of padding left, of the input, of padding right."""
    columns = (m.out_width - 1) * spec.strides[1] + _span(spec)
    left = min(spec.pads[1], columns)
    inside = max(min(m.width, columns - left), 0)
    return left, inside, columns - left - inside


def window_bytes(spec: ConvSpec, fold: int) -> list[tuple[int, int]]:
    """Of every input in the 64 bytes of a pixel: which of `fold` rows it is of, and its byte in there."""
    row = spec.kernel[1] * spec.in_channels
    return [
        (k // row, k % row // spec.in_channels * spec.dilations[1] * spec.in_channels + k % spec.in_channels)
        for k in range(fold * row)
    ]


def _span(spec: ConvSpec) -> int:
    """Columns from the first to the last of a window."""
    return (spec.kernel[1] - 1) * spec.dilations[1] + 1
