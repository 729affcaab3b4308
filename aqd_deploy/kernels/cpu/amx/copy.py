"""Copies the rows of the input that a task's tiles need into its frame."""

from __future__ import annotations

from tvm import tirx

from aqd_deploy.kernels.contract.spec import ConvSpec
from aqd_deploy.kernels.cpu.amx.fold import columns_of, window_bytes
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
            columns = max(sum(columns_of(whole, m)) for m in whole.maps)
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
                    self._row(
                        framed.level, y + n * self.whole.dilations[0], self.unfolded, const(n * self.pitch)
                    )
                self._fold(place, framed.map.out_width)
            else:
                for plane in frame.planes:
                    self._row(framed.level, y + plane, self.samples, place + plane * self.plane)

    def _row(self, level: int, y: Expr, buffer: Buffer, to: Expr) -> None:
        """Row `y` of a map of the input with its padding."""
        em, channels, m = self.em, self.whole.in_channels, self.whole.maps[level]
        left, inside, right = columns_of(self.whole, m)
        y = em.bind("y", y)
        known = tirx.all(y >= 0, y < m.height)
        with em.when(known):
            self._pad(buffer, to, left)
            source = (y * m.width + m.in_start) * channels
            self._copy(buffer, to + left * channels, source, inside * channels)
            self._pad(buffer, to + (left + inside) * channels, right)
        with em.when(tirx.Not(known)):
            self._pad(buffer, to, left + inside + right)

    def _fold(self, to: Expr, columns: int) -> None:
        """The windows of `columns` output columns, from the unfolded rows."""
        em, whole = self.em, self.whole
        across = whole.strides[1] * whole.in_channels
        places = window_bytes(whole, self.frame.fold)
        places += [places[-1]] * (WIDE - len(places))
        width = next(lanes for lanes in (16, 32, WIDE) if max(byte for _, byte in places) < lanes)
        with em.loop("x", columns) as x:
            value = None
            for n in range(self.frame.fold):
                row = load(self.unfolded, x * across + n * self.pitch, width)
                moved = tirx.Shuffle(
                    [row] * (WIDE // width), [const(byte if of == n else 0) for of, byte in places]
                )
                lanes = [const(lane + WIDE * (of == n)) for lane, (of, _) in enumerate(places)]
                value = moved if value is None else tirx.Shuffle([value, moved], lanes)
            em.store(self.samples, to + x * WIDE, value, WIDE)

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
