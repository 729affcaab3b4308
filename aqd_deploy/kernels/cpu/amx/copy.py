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
        self.spec: ConvSpec = frame.spec
        self.whole, self.top = whole, top
        self.dtype = "int8" if self.spec.input_signed else "uint8"

    def rows(self, framed: FramedMap, first: Expr, end: Expr, origin: Expr) -> None:
        """Rows `first` … `end` − 1 of a map's planes, which begin at pixel `origin` of the frame."""
        em, spec = self.em, self.spec
        down = spec.strides[0]
        with em.loop("frame_row", tirx.Max(end - first, const(0))) as index:
            row = em.bind("row", first + index)
            place = (row * framed.width + framed.base - origin) * spec.in_channels
            for plane in self.frame.planes:
                to = em.bind("to", place + plane * self.plane)
                self._row(framed, row * down + (self.top + plane), to)

    def _row(self, framed: FramedMap, y: Expr, to: Expr) -> None:
        em, channels = self.em, self.spec.in_channels
        m = framed.map
        y = em.bind("y", y)
        known = tirx.all(y >= 0, y < self.whole.maps[framed.level].height)
        with em.when(known):
            self._pad(to, framed.left)
            self._copy(
                to + framed.left * channels, (y * m.width + m.in_start) * channels, framed.inside * channels
            )
            self._pad(to + (framed.left + framed.inside) * channels, framed.right)
        with em.when(tirx.Not(known)):
            self._pad(to, framed.left + framed.inside + framed.right)

    def _copy(self, to: Expr, source: Expr, count: int) -> None:
        """`count` bytes; the last vector is shifted back so that it ends at the last byte."""
        em, lanes = self.em, _lanes(count)
        if not count:
            return
        with em.loop("i", -(-count // lanes)) as i:
            at = em.bind("at", tirx.Min(i * lanes, const(count - lanes)))
            em.store(self.samples, to + at, load(self.data, source + at, lanes), lanes)

    def _pad(self, to: Expr, columns: int) -> None:
        """`columns` pixels of padding."""
        em, channels = self.em, self.spec.in_channels
        if not columns:
            return
        values = self.spec.pad_values or (0,) * channels
        if len(set(values)) > 1:
            with em.loop("column", columns) as column:
                for channel, value in enumerate(values):
                    em.store(self.samples, to + column * channels + channel, const(value, self.dtype))
            return
        lanes = _lanes(columns * channels)
        with em.loop("i", -(-columns * channels // lanes)) as i:
            at = tirx.Min(i * lanes, const(columns * channels - lanes))
            em.store(self.samples, to + at, broadcast(const(values[0], self.dtype), lanes), lanes)


def _lanes(count: int) -> int:
    """Bytes that are copied at a time."""
    return next((lanes for lanes in (WIDE, 16) if count >= lanes), 1)
