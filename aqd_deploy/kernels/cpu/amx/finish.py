"""What follows the sums of a block of tiles, a few pixels at a time between the products of the next one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from tvm import tirx

from aqd_deploy.kernels.contract.spec import SkipAdd
from aqd_deploy.kernels.cpu.amx.frame import Frame, FramedMap
from aqd_deploy.kernels.cpu.amx.nchw import BorderBlock
from aqd_deploy.kernels.cpu.amx.plan import Plan
from aqd_deploy.kernels.cpu.amx.tiles import ROWS, SUMS, TileUnit
from aqd_deploy.kernels.cpu.emit import Buffer, Emitter, Expr, broadcast, const, load
from aqd_deploy.kernels.cpu.epilogue.epilogue import BoundEpilogue, Place

LANES = 16
# Groups of steps of a block from which on it stores the sums of the block before, between its own products:
# the rest of the products must still be enough to hide the epilogue.
LATE_GROUPS = 5
# What is remembered of a block in memory: code that looks at variables makes the simplifier think for long.
_CHANNEL, _LEVEL, _AT, _WIDTH, _FIRST, _COUNT, _PASSED = range(7)
_FIELDS = 7


class Sums(ABC):
    """Where the sums of blocks go, and what is done about those of the block before while the next one is
    multiplied: nothing here.

    `sums`: int32, `pitch` of them from a pixel of a tile to the next; `windows`: what `WindowSums` wrote, if
    weights need it. `late`: a block's sums are stored in the first group of the next block, and nothing is
    finished there.
    """

    plan: Plan
    sums: Buffer
    pitch: int = LANES
    windows: Buffer | None = None
    late: bool = False

    def begin(self) -> None:
        """What a task does before its first block."""
        return

    @abstractmethod
    def next(self, tile: Expr, block: Expr, origin: Expr, passed: Expr) -> tuple[Expr, Expr]:
        """Begins a block: notes where its values belong, and returns the first pixel of its samples and the
        pixels of a row of them. The task began `passed` tiles before.
        """

    @abstractmethod
    def place_of(self, sums: int) -> Expr:
        """Where in `sums` the block's tile of that number goes."""

    def some(self, group: Expr, step: int, steps: int) -> None:
        """After step `step` of `steps` of a group."""
        return

    def done(self) -> None:
        """After the last of `some`."""
        return

    def store(self, unit: TileUnit) -> None:
        """Stores what the registers hold: the sums of this block, or of the one before where `late`."""
        for number in range(self.plan.sums):
            self.store_one(unit, number)

    def store_one(self, unit: TileUnit, number: int) -> None:
        """Stores one tile of those."""
        unit.store(number, self.sums, self.place_of(number), self.pitch)

    def rest(self, unit: TileUnit) -> None:
        """After the last block of a task."""
        return


class Finish(Sums):
    """Writes the epilogue's code of one function. Blocks take turns in two halves of every buffer here: one
    is of the block that is multiplied, the other half of the one to finish.

    `groups` of steps have a block's products; in each `some` finishes a share of the pixels. Stores of tiles
    wait for their last product, so long blocks do something else meanwhile (`late`).
    """

    def __init__(
        self,
        em: Emitter,
        bound: BoundEpilogue,
        borders: BorderBlock | None,
        frame: Frame,
        plan: Plan,
        groups: int,
    ) -> None:
        self.em, self.bound, self.borders, self.frame, self.plan = em, bound, borders, frame, plan
        self.pitch = plan.wide * LANES
        self.late = groups >= LATE_GROUPS
        self.share = -(-frame.pixels // (groups - self.late))
        self.numbers = self.share * (groups - self.late)
        self.split = any(isinstance(stage, SkipAdd) and stage.upsample > 1 for stage in bound.epilogue.stages)

    def begin(self) -> None:
        """The buffers of a task; at first there is nothing to finish."""
        em = self.em
        self.sums = em.alloc("sums", "int32", 2 * self.plan.sums * SUMS)
        self.turn: Buffer = em.alloc("turn", "int32", 1)
        self.state: Buffer = em.alloc("state", "int32", 2 * _FIELDS)
        self.places: Buffer = em.alloc("places", "int32", 2 * self.numbers)
        if self.split:
            self.ys: Buffer = em.alloc("ys", "int32", 2 * self.numbers)
            self.xs: Buffer = em.alloc("xs", "int32", 2 * self.numbers)
        if self.borders is not None:
            self.borders.begin()
        em.store(self.turn, 0, const(0))
        # Also tells TVM, which would keep only what it sees being used, that all of it is.
        with em.loop("i", 2 * self.plan.sums * SUMS // LANES) as i:
            em.store(self.sums, i * LANES, const(0, "int32", LANES), LANES)
        with em.loop("i", 2 * self.numbers) as i:
            em.store(self.places, i, const(-1))
        with em.loop("i", 2 * _FIELDS) as i:
            em.store(self.state, i, const(0))

    def next(self, tile: Expr, block: Expr, origin: Expr, passed: Expr) -> tuple[Expr, Expr]:
        em = self.em
        now = em.bind("now", const(1) - load(self.turn, const(0)))
        em.store(self.turn, 0, now)
        self.now, self.old = now, em.bind("old", const(1) - now)
        self.to = em.bind("to", (self.old if self.late else now) * (self.plan.sums * SUMS))
        fields = em.bind("fields", now * _FIELDS)
        em.store(self.state, fields + _CHANNEL, block * LANES)
        em.store(self.state, fields + _PASSED, passed)
        level = const(0)
        for framed in self.frame.maps[1:]:
            level = level + tirx.Select(tile >= framed.first_tile, const(1), const(0))
        em.store(self.state, fields + _LEVEL, level)
        for framed in self.frame.maps:
            mine = tirx.EQ(load(self.state, fields + _LEVEL), const(framed.level))
            with em.when(mine) if len(self.frame.maps) > 1 else em.always():
                self._note(framed, tile, origin, fields)
        at, width = (em.bind("at", load(self.state, fields + field)) for field in (_AT, _WIDTH))
        return at, width

    def place_of(self, sums: int) -> Expr:
        i, j = divmod(sums, self.plan.wide)
        return self.to + i * ROWS * self.pitch + j * LANES

    def _note(self, framed: FramedMap, tile: Expr, origin: Expr, fields: Expr) -> None:
        """The place of each of the tile's pixels in the output, −1 for what is none."""
        em, frame, m = self.em, self.frame, framed.map
        nominal = em.bind("number", (tile - framed.first_tile) * frame.pixels)
        number = nominal
        if not frame.copies:
            number = em.bind("number", tirx.Min(nominal, const(frame.last_number(framed))))
        em.store(self.state, fields + _AT, number * frame.spec.strides[1] + framed.base - origin)
        em.store(self.state, fields + _WIDTH, const(framed.width))
        if self.borders is not None:
            last = tirx.Min(nominal + frame.pixels, const(framed.count))
            begin, end = (em.bind("inside", _outputs_before(framed, n)) for n in (nominal, last))
            em.store(self.state, fields + _FIRST, begin + m.out_start)
            em.store(self.state, fields + _COUNT, end - begin)
        for first in range(0, frame.pixels, LANES):
            numbers = em.bind("numbers", tirx.Ramp(number + first, const(1), LANES))
            y = em.bind("y", tirx.truncdiv(numbers, const(framed.pitch, "int32", LANES)))
            x = em.bind("x", numbers - y * const(framed.pitch, "int32", LANES))
            place = y * const(m.out_width, "int32", LANES) + x + const(m.out_start, "int32", LANES)
            known = tirx.And(y < const(m.out_height, "int32", LANES), x < const(m.out_width, "int32", LANES))
            if not frame.copies:
                known = tirx.And(known, numbers >= tirx.Broadcast(nominal, LANES))
            place = tirx.Select(known, place, const(-1, "int32", LANES))
            at = self.now * self.numbers + first
            em.store(self.places, at, place, LANES)
            if self.split:
                em.store(self.ys, at, y, LANES)
                em.store(self.xs, at, x, LANES)

    def some(self, group: Expr, step: int, steps: int) -> None:
        """Finishes pixels of the block before: what falls to step `step` of `steps` of a group."""
        begin, end = (self.share * n // steps for n in (step, step + 1))
        if begin < end:
            self._pixels(
                (group - int(self.late)) * self.share + begin, end - begin, self.old, bool(self.bound.streams)
            )

    def done(self) -> None:
        if self.borders is not None:
            self._flush(self.old)

    def rest(self, unit: TileUnit) -> None:
        """Finishes the last block of a task."""
        self.old = self.em.bind("last", load(self.turn, const(0)))
        self.to = self.em.bind("to", self.old * (self.plan.sums * SUMS))
        if self.late:
            self.store(unit)
        self._pixels(const(0), self.frame.pixels, self.old, False)
        self.done()

    def _flush(self, half: Expr) -> None:
        level, first, count, channel = (
            load(self.state, half * _FIELDS + field) for field in (_LEVEL, _FIRST, _COUNT, _CHANNEL)
        )
        assert self.borders is not None
        self.borders.flush(level, first, count, channel)

    def _prefetch(self, pixel: Expr, channel: Expr) -> None:
        """Asks for the streams of a pixel of the block that is multiplied, which is finished next. One at a
        time between vectors: many at once wait for each other, and loads for them.
        """
        em = self.em
        place = em.bind("there", tirx.Max(load(self.places, self.now * self.numbers + pixel), const(0)))
        # Strides of a KiB and more fall on few sets of the first level.
        self.bound.prefetch(em, Place(place, const(0), const(0)), channel, level=2)

    def _pixels(self, first: Expr, count: int, half: Expr, ahead: bool) -> None:
        """`count` pixels from `first` on, one block of channels after the other: what is the same for all of
        the pixels stays in registers.
        """
        em, wide = self.em, self.plan.wide
        self.half, self.ahead = half, ahead
        full, rest = divmod(self.frame.spec.out_channels, LANES)
        whole = not rest and full % wide == 0
        for j in range(wide):
            channel = load(self.state, half * _FIELDS + _CHANNEL) + j * LANES
            if full:
                with em.always() if whole else em.when(channel < full * LANES):
                    self._vectors(first, count, j, 0, LANES)
            if rest:
                with em.when(tirx.EQ(channel, const(full * LANES))):
                    self._tail(first, count, j, rest)

    def _tail(self, first: Expr, count: int, j: int, rest: int) -> None:
        """Channels that do not fill a vector, in smaller ones."""
        begin = 0
        for lanes in (8, 4):
            if rest - begin >= lanes:
                self._vectors(first, count, j, begin, lanes)
                begin += lanes
        if rest > begin:
            with self.em.loop("lane", rest - begin) as lane:
                self._vectors(first, count, j, begin + lane, 1)

    def _vectors(self, first: Expr, count: int, j: int, lane: Expr | int, lanes: int) -> None:
        """`lanes` channels of each pixel, from `lane` on of block j."""
        em, half = self.em, self.half
        channel = em.bind("channel", load(self.state, half * _FIELDS + _CHANNEL) + j * LANES + lane)
        level: Any = None
        if self.frame.spec.levels:
            level = em.bind("level", load(self.state, half * _FIELDS + _LEVEL))
        if self.ahead:
            later = em.bind("later", load(self.state, self.now * _FIELDS + _CHANNEL) + j * LANES + lane)
        with em.holding(), em.loop("p", count) as p:
            pixel = em.bind("pixel", first + p)
            if self.ahead:
                self._prefetch(pixel, later)
            at = em.bind("noted", half * self.numbers + pixel)
            with em.when(load(self.places, at) >= const(0)):
                row = half * self.frame.pixels + pixel
                base = em.bind("base", row * self.pitch + j * LANES)
                value = load(self.sums, base + lane, lanes)
                window = self._window(pixel, half)
                if window is not None:
                    value = value * const(2, "int32", lanes) + broadcast(window, lanes)
                self._emit(em.bind("v", value), self._place(at, level), channel, j * LANES + lane, lanes)

    def _emit(self, value: Expr, place: Place, channel: Expr, at: Expr | int, lanes: int) -> None:
        """`lanes` channels from `channel` on, `at` of those of the item."""
        if self.borders is None:
            self.bound.emit(self.em, value, place, channel, lanes)
            return
        value = self.bound.after_stages(self.em, value, place, channel, lanes)
        first = load(self.state, self.half * _FIELDS + _FIRST)
        self.borders.put(place.pixel - first, at, value, lanes)

    def _window(self, pixel: Expr, half: Expr) -> Expr | None:
        """The sum of a pixel's window, None where weights are what they are."""
        if self.windows is None:
            return None
        at = load(self.state, half * _FIELDS + _PASSED) * self.frame.pixels + pixel
        return self.em.bind("window", load(self.windows, at))

    def _place(self, at: Expr, level: Any) -> Place:
        pixel = self.em.bind("place", load(self.places, at))
        y = load(self.ys, at) if self.split else const(0)
        x = load(self.xs, at) if self.split else const(0)
        return Place(pixel, y, x, level)


def _outputs_before(framed: FramedMap, number: Expr) -> Expr:
    """Output pixels of a map that come before a number."""
    y = number // framed.pitch
    return y * framed.map.out_width + tirx.Min(number - y * framed.pitch, const(framed.map.out_width))
