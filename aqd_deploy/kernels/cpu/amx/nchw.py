"""Network outputs, int32 [1, C, H, W] a map: the pixels of a block of sums are neighbours there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tvm import tirx

from aqd_deploy.kernels.contract.spec import Map
from aqd_deploy.kernels.cpu.amx.frame import Frame
from aqd_deploy.kernels.cpu.amx.plan import Plan
from aqd_deploy.kernels.cpu.emit import Buffer, Emitter, Expr, const, load
from aqd_deploy.kernels.cpu.epilogue.nchw_store import declare_borders
from aqd_deploy.kernels.cpu.movement.pyramid_stack import transposed

LANES = 16


class BorderBlock:
    """Stages the values of one block, [pixel, channel], and writes them channel by channel."""

    def __init__(self, em: Emitter, frame: Frame, plan: Plan, parts: Sequence[int]) -> None:
        self.em, self.frame, self.plan = em, frame, plan
        # Of each part its first channel, the number of its channels and an output a map.
        self.parts: list[tuple[int, int, list[Buffer]]] = []
        begin = 0
        for count in parts or (frame.spec.out_channels,):
            self.parts.append((begin, count, declare_borders(em, replace(frame.spec, out_channels=count))))
            begin += count
        self.width = plan.wide * LANES

    def begin(self) -> None:
        """The scratch of a task."""
        self.staged: Buffer = self.em.alloc("staged", "int32", self.frame.pixels * self.width)

    def put(self, pixel: Expr, channel: Expr | int, value: Expr, lanes: int) -> None:
        """Values of the block's output pixel `pixel`, from its channel `channel` on."""
        self.em.store(self.staged, pixel * self.width + channel, value, lanes)

    def flush(self, level: Expr, first: Expr, count: Expr, channel: Expr) -> None:
        """Write `count` output pixels from `first` on, which are of map `level`, in the channels of the block
        from `channel` on. The arguments are loads: the simplifier takes long for what it knows about
        variables.
        """
        em, maps = self.em, self.frame.maps
        for m in maps:
            mine = tirx.EQ(level, const(m.level))
            with em.when(mine) if len(maps) > 1 else em.always():
                for begin, channels, outputs in self.parts:
                    self._flush_part(begin, channels, outputs[m.level], m.map, (first, count, channel))

    def _flush_part(
        self, begin: int, channels: int, out: Buffer, m: Map, at: tuple[Expr, Expr, Expr]
    ) -> None:
        """The same of one map and one output. Several outputs lie in one vector, where `begin` is not 0."""
        em, (first, count, channel) = self.em, at
        full, rest = divmod(channels, LANES)
        plane, start = m.out_height * m.out_width, m.out_start
        with em.loop("j", self.plan.wide) as j:
            if full:
                with em.when(channel + j * LANES < const(full * LANES)):
                    to = em.bind("to", (channel + j * LANES) * plane + first - start)
                    with em.when(count >= const(LANES)):
                        self._squares(out, to, j * LANES, count, plane)
                    with em.when(count < const(LANES)):
                        self._singly(out, to, j * LANES, LANES, count, plane)
            if rest:
                with em.when(tirx.EQ(channel + j * LANES, const(full * LANES))):
                    to = em.bind("to", first + (full * LANES * plane - start))
                    self._singly(out, to, j * LANES + begin, rest, count, plane)

    def _squares(self, out: Buffer, to: Expr, channel: Expr, count: Expr, plane: int) -> None:
        """Sixteen pixels of sixteen channels at a time; the last ones are shifted back."""
        em = self.em
        with em.loop("across", (count + (LANES - 1)) // LANES) as across:
            pixel = em.bind("pixel", tirx.Min(across * LANES, count - LANES))
            base = em.bind("base", pixel * self.width + channel)
            rows = [em.bind("row", load(self.staged, base + i * self.width, LANES)) for i in range(LANES)]
            for lane, row in enumerate(transposed(em, rows)):
                em.store(out, to + pixel + lane * plane, row, LANES)

    def _singly(self, out: Buffer, to: Expr, channel: Expr, lanes: int, count: Expr, plane: int) -> None:
        em = self.em
        with em.loop("lane", lanes) as lane, em.loop("pixel", count) as pixel:
            value = load(self.staged, pixel * self.width + channel + lane)
            em.store(out, to + lane * plane + pixel, value)
