"""Copies the rows of the input that a task's tiles need into its frame."""

from __future__ import annotations

from tvm import tirx

from aqd_deploy.kernels.contract.spec import ConvSpec
from aqd_deploy.kernels.cpu.amx.frame import Frame, FramedMap
from aqd_deploy.kernels.cpu.emit import Buffer, Emitter, Expr, broadcast, const, load

WIDE = 64


class FrameCopy:
    """Writes the copying code of one function. A plane takes `plane` bytes of `samples`; the first row of a
    frame is row `top` of a map of the convolution `whole`.
    """

    def __init__(
        self, em: Emitter, frame: Frame, data: Buffer, samples: Buffer, plane: int, whole: ConvSpec, top: Expr
    ) -> None:
        self.em, self.frame, self.data, self.samples, self.plane = em, frame, data, samples, plane
        self.whole, self.top = whole, top
        self.dtype = "int8" if whole.input_signed else "uint8"
        if frame.fold > 1:
            columns = max(framed.left + framed.inside + framed.right for framed in frame.maps)
            self.pitch = columns * whole.in_channels + 2 * WIDE
            self.unfolded: Buffer = em.alloc("unfolded", self.dtype, frame.fold * self.pitch)

    def rows(self, framed: FramedMap, first: Expr, end: Expr, origin: Expr) -> None:
        """Rows `first` … `end` − 1 of a map's planes, which begin at pixel `origin` of the frame."""
        em, frame = self.em, self.frame
        with em.loop("frame_row", tirx.Max(end - first, const(0))) as index:
            row = em.bind("row", first + index)
            place = em.bind("to", (row * framed.width + framed.base - origin) * frame.spec.in_channels)
            y = em.bind("y", row * self.whole.strides[0] + self.top)
            if frame.fold > 1:
                for n in range(frame.fold):
                    self._row(framed, y + n * self.whole.dilations[0], self.unfolded, const(n * self.pitch))
                self._fold(place, framed.left + framed.inside + framed.right)
            else:
                for plane in frame.planes:
                    self._row(framed, y + plane, self.samples, place + plane * self.plane)

    def _row(self, framed: FramedMap, y: Expr, buffer: Buffer, to: Expr) -> None:
        """Row `y` of the input with its padding."""
        em, channels = self.em, self.whole.in_channels
        m = self.whole.maps[framed.level]
        y = em.bind("y", y)
        known = tirx.all(y >= 0, y < m.height)
        with em.when(known):
            self._pad(buffer, to, framed.left)
            source = (y * m.width + m.in_start) * channels
            self._copy(buffer, to + framed.left * channels, source, framed.inside * channels)
            self._pad(buffer, to + (framed.left + framed.inside) * channels, framed.right)
        with em.when(tirx.Not(known)):
            self._pad(buffer, to, framed.left + framed.inside + framed.right)

    def _fold(self, to: Expr, columns: int) -> None:
        """Brings the unfolded rows together, column by column. The last vector may write over the row's end:
        rows are written in order.
        """
        em, fold, channels = self.em, self.frame.fold, self.whole.in_channels
        at_a_time = WIDE // (fold * channels)
        with em.loop("i", -(-columns // at_a_time)) as i:
            source = em.bind("source", i * (at_a_time * channels))
            value = load(self.unfolded, source, WIDE)
            for n in range(1, fold):
                lanes = []
                for lane in range(WIDE):
                    column, row, channel = lane // (fold * channels), lane // channels % fold, lane % channels
                    before = column * channels + channel if n == 1 else lane
                    lanes.append(WIDE + column * channels + channel if row == n else before)
                other = load(self.unfolded, source + n * self.pitch, WIDE)
                value = tirx.Shuffle([value, other], [const(lane) for lane in lanes])
            em.store(self.samples, to + i * (at_a_time * fold * channels), value, WIDE)

    def _copy(self, buffer: Buffer, to: Expr, source: Expr, count: int) -> None:
        """`count` bytes; the last vector is shifted back so that it ends at the last byte."""
        em, lanes = self.em, _lanes(count)
        if not count:
            return
        with em.loop("i", -(-count // lanes)) as i:
            at = em.bind("at", tirx.Min(i * lanes, const(count - lanes)))
            em.store(buffer, to + at, load(self.data, source + at, lanes), lanes)

    def _pad(self, buffer: Buffer, to: Expr, columns: int) -> None:
        """`columns` pixels of padding."""
        em, channels = self.em, self.whole.in_channels
        if not columns:
            return
        values = self.whole.pad_values or (0,) * channels
        if len(set(values)) > 1:
            with em.loop("column", columns) as column:
                for channel, value in enumerate(values):
                    em.store(buffer, to + column * channels + channel, const(value, self.dtype))
            return
        lanes = _lanes(columns * channels)
        with em.loop("i", -(-columns * channels // lanes)) as i:
            at = tirx.Min(i * lanes, const(columns * channels - lanes))
            em.store(buffer, to + at, broadcast(const(values[0], self.dtype), lanes), lanes)


def _lanes(count: int) -> int:
    """Bytes that are copied at a time."""
    return next((lanes for lanes in (WIDE, 16) if count >= lanes), 1)
