"""The padded copies of the input that a task of a convolution needs: whole rows, or those of one tile."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tvm import tirx

from aqd_deploy.kernels.contract.spec import ConvSpec
from aqd_deploy.kernels.cpu.emit import Buffer, Emitter, Expr, broadcast, const, convert, load
from aqd_deploy.kernels.cpu.isa.dot_product import DotProduct
from aqd_deploy.kernels.storage.layout import WeightLayout

COPY_LANES = 32


@dataclass(frozen=True)
class PaddedRows:
    """Samples whose row r, column x, channel c is samples[origin + r·row_stride + x·in_channels + c]."""

    samples: Buffer
    origin: Expr
    row_stride: int

    def at_channel(self, channel: Expr) -> PaddedRows:
        """The same samples, seen from `channel` on."""
        return replace(self, origin=self.origin + channel)


def needs_copy(spec: ConvSpec, layout: WeightLayout, dots: DotProduct) -> bool:
    """Whether a copy is needed: padding, another sample type, or steps that would read behind the input."""
    return any(spec.pads) or dots.converts(spec) or overread(layout) > 0


def overread(layout: WeightLayout) -> int:
    """Samples that the last step of a segment reads behind it; their weights are zero."""
    return layout.steps * layout.dot - layout.segment_length


def padded_rows(
    em: Emitter,
    spec: ConvSpec,
    dots: DotProduct,
    data: Buffer,
    top: Expr,
    rows: int,
    copies: bool,
    slack: int,
    start: int = 0,
) -> PaddedRows:
    """The samples for output rows top … top + rows − 1, copied where `copies` says so.

    The map begins at pixel `start` of `data`. `slack` samples may be read behind the last one of a copy.
    """
    line = spec.width * spec.in_channels
    first = start * spec.in_channels
    if not copies:
        return PaddedRows(data, em.bind("origin", top * (spec.strides[0] * line) + first), line)
    in_rows = (rows - 1) * spec.strides[0] + (spec.kernel[0] - 1) * spec.dilations[0] + 1
    columns = (spec.out_width - 1) * spec.strides[1] + (spec.kernel[1] - 1) * spec.dilations[1] + 1
    row_stride = columns * spec.in_channels
    data_dtype = "int8" if spec.input_signed else "uint8"
    dtype = dots.sample_dtype or data_dtype
    samples = em.alloc("padded", dtype, in_rows * row_stride + slack)
    left = min(spec.pads[1], columns)
    inside = max(min(spec.width, columns - left), 0)
    right = columns - left - inside
    writer = _Writer(em, spec, dots, dtype, samples, data)
    with em.loop("row", in_rows) as row:
        source = em.bind("source", top * spec.strides[0] + row - spec.pads[0])
        to = em.bind("to", row * row_stride)
        known = tirx.all(source >= 0, source < spec.height)
        with em.when(known):
            writer.pad(to, left)
            writer.copy(to + left * spec.in_channels, source * line + first, inside * spec.in_channels)
            writer.pad(to + (left + inside) * spec.in_channels, right)
        with em.when(tirx.Not(known)):
            writer.pad(to, columns)
    if slack:
        with em.loop("slack", slack) as i:
            em.store(samples, i + in_rows * row_stride, const(0, dtype))
    return PaddedRows(samples, const(0), row_stride)


@dataclass(frozen=True)
class Window:
    """Rows and columns of the input, padding included: `rows` x `columns` pixels from (`top`, `left`) on."""

    top: Expr
    left: Expr
    rows: int
    columns: int


def padded_tile(
    em: Emitter, spec: ConvSpec, dots: DotProduct, data: Buffer, copy: Buffer, window: Window, start: int
) -> PaddedRows:
    """The samples of a window of the map that begins at pixel `start` of `data`, written to `copy`, which has
    the type of the input and holds the window and what may be read behind it.
    """
    channels, line = spec.in_channels, spec.width * spec.in_channels
    stride = window.columns * channels
    writer = _Writer(em, spec, dots, copy.dtype, copy, data)
    with em.loop("row", window.rows) as r, em.loop("column", window.columns) as x:
        row, column = em.bind("row", window.top + r), em.bind("column", window.left + x)
        to = em.bind("to", r * stride + x * channels)
        known = tirx.all(row >= 0, row < spec.height, column >= 0, column < spec.width)
        with em.when(known):
            writer.copy(to, row * line + (column + start) * channels, channels)
        with em.when(tirx.Not(known)):
            writer.pad(to, 1)
    with em.loop("slack", int(copy.shape[0]) - window.rows * stride) as i:
        em.store(copy, i + window.rows * stride, const(0, copy.dtype))
    return PaddedRows(copy, const(0), stride)


class _Writer:
    """Writes samples into padded rows, in the type they are multiplied in."""

    def __init__(
        self, em: Emitter, spec: ConvSpec, dots: DotProduct, dtype: str, samples: Buffer, data: Buffer
    ) -> None:
        self.em, self.spec, self.samples, self.data, self.dtype = em, spec, samples, data, dtype
        self.offset = dots.offset

    def copy(self, to: Expr, source: Expr, count: int) -> None:
        """`count` samples from the input; the last vector is shifted back so that it ends at the last
        sample.
        """
        em = self.em
        lanes = min(COPY_LANES, 1 << (count.bit_length() - 1))
        with em.loop("i", -(-count // lanes)) as i:
            at = em.bind("at", tirx.Min(i * lanes, const(count - lanes)))
            value = self._shifted(load(self.data, source + at, lanes), lanes)
            em.store(self.samples, to + at, value, lanes)

    def _shifted(self, value: Expr, lanes: int) -> Expr:
        if self.offset:
            value = convert(value, "int16", lanes) + const(self.offset, "int16", lanes)
            return convert(value, self.dtype, lanes)
        return value if self.data_dtype == self.dtype else convert(value, self.dtype, lanes)

    @property
    def data_dtype(self) -> str:
        return "int8" if self.spec.input_signed else "uint8"

    def pad(self, to: Expr, columns: int) -> None:
        """`columns` pixels of padding."""
        em, spec = self.em, self.spec
        if not columns:
            return
        values = spec.pad_values or (0,) * spec.in_channels
        if len(set(values)) == 1:
            count = columns * spec.in_channels
            lanes = min(COPY_LANES, 1 << (count.bit_length() - 1))
            value = broadcast(const(values[0] + self.offset, self.dtype), lanes)
            with em.loop("i", -(-count // lanes)) as i:
                em.store(self.samples, to + tirx.Min(i * lanes, const(count - lanes)), value, lanes)
            return
        with em.loop("column", columns) as column:
            for channel, value in enumerate(values):
                em.store(
                    self.samples,
                    to + column * spec.in_channels + channel,
                    const(value + self.offset, self.dtype),
                )
