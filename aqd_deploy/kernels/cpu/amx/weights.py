"""Where the tiles of weights come from: memory as it lies, or codes that are expanded while tiles multiply.

Weights are read once a network, so they come from memory that is far away, and on a core that multiplies
tiles this takes as long as the products. Codes of 2 or 4 bits are a quarter or half of the bytes. While one
item of output channels is multiplied, the next one is brought nearer: fetched to the second-level cache, or
expanded into a buffer that stays there. Its vectors are taken in the order of memory, a few after each step.
Where a task has one tile of pixels, each weight is multiplied once: those of the next steps lie expanded.
"""

from __future__ import annotations

from tvm import tirx

from aqd_deploy.kernels.cpu.amx.frame import Frame
from aqd_deploy.kernels.cpu.amx.plan import Plan, expanded_bytes, passing_steps, weight_steps
from aqd_deploy.kernels.cpu.amx.tiles import ROW_BYTES, TILE_BYTES
from aqd_deploy.kernels.cpu.emit import Buffer, Emitter, Expr, const, load
from aqd_deploy.kernels.storage.layout import WeightLayout

# How many lines of codes are asked for in advance, of each block.
AHEAD = 24


class NearWeights:
    """Writes how a task comes by its weights, `stored` as `layout` says, for tiles of pixels of `frame`.

    `tiles` is what tiles are loaded from.
    """

    def __init__(self, em: Emitter, stored: Buffer, layout: WeightLayout, plan: Plan, frame: Frame) -> None:
        self.em, self.stored, self.layout, self.plan, self.frame = em, stored, layout, plan, frame
        # How many tiles of pixels an item meets before the next item is wanted for the first time.
        turns = max(1, frame.tiles // plan.pixel_parts) if plan.weights_first else 1
        self.steps = weight_steps(layout)
        self.block_bytes = self.steps * TILE_BYTES
        self.lines = self.block_bytes // layout.codes // ROW_BYTES
        # Lines of a block that follow each step.
        self.share = -(-self.lines // (turns * self.steps))
        self.passing = passing_steps(frame, layout, plan)
        self.tiles = stored

    def begin(self, first: Expr, end: Expr) -> None:
        """Before the products of a task, of items `first` … `end` − 1."""
        self.first, self.end = first, end
        if self.layout.codes > 1:
            size = expanded_bytes(self.frame, self.layout, self.plan)
            self.tiles = self.em.alloc("expanded", "int8", size)
            with self.em.loop("line", self.passing * self.share or self.lines) as line:
                self._expand(first, line)

    def item(self, item: Expr, passed: Expr) -> None:
        """The products that follow are those of an item; it has met `passed` tiles of pixels."""
        self.now, self.passed = item, passed
        self.bases = [self.em.bind("weight_base", self._at(item, j)) for j in range(self.plan.wide)]
        # None where there is no next item.
        more = self.em.bind("more", tirx.Select(item + 1 < self.end, const(self.lines), const(0)))
        self.more = more

    def of_step(self, step: Expr) -> list[Expr]:
        """The bytes of `tiles` at which each block of the item has its weights of a step."""
        place = step % self.passing if self.passing else step
        return [base + place * TILE_BYTES for base in self.bases]

    def _at(self, item: Expr, j: int) -> Expr:
        """The byte of `tiles` at which block j of an item begins."""
        if self.layout.codes == 1:
            return self._block(item, j) * self.block_bytes
        if self.passing:
            return const(j * self.passing * TILE_BYTES)
        place = item - self.first
        if self.plan.weights_first:
            place = place % 2
        return (place * self.plan.wide + j) * self.block_bytes

    def _block(self, item: Expr, j: int) -> Expr:
        """Block j of an item; the last one again where there is none."""
        return tirx.Min(item * self.plan.wide + j, const(self.layout.blocks - 1))

    def nearer(self, group: Expr, step: int, steps: int) -> None:
        """After the products of step `step` of `steps` of a group: a share of what comes next. Lines are
        asked for once a group, which takes the fewest instructions; to expand them takes more, evenly.
        """
        em = self.em
        if self.passing:
            self._next_step(group * steps + step)
            return
        together = 1 if self.layout.codes > 1 else steps
        if (step + 1) % together:
            return
        first, share = group * steps + (step + 1 - together), self.share * together
        index = em.bind("ahead", (self.passed * self.steps + first) * self.share)
        with em.when(index < self.more), em.loop("i", share) as i:
            line = index + i
            if self.lines % share:
                line = tirx.Min(line, const(self.lines - 1))
            if self.layout.codes > 1:
                self._expand(self.now + 1, em.bind("line", line))
            else:
                for j in range(self.plan.wide):
                    place = self._at(self.now + 1, j) + line * ROW_BYTES
                    em.prefetch(self.stored, place, level=2)

    def _next_step(self, step: Expr) -> None:
        """Expands what takes the place of step `step`, of this item or the next one."""
        em = self.em
        ahead = em.bind("ahead", step + self.passing)
        over = em.bind("over", tirx.Select(ahead < self.steps, const(0), const(1)))
        with em.when(self.now + over < self.end), em.loop("i", self.share) as i:
            self._expand(self.now + over, em.bind("line", (ahead - over * self.steps) * self.share + i))

    def _expand(self, item: Expr, line: Expr) -> None:
        """Line `line` of the codes of each block of an item, as `codes` lines of weights."""
        em, layout = self.em, self.layout
        for j in range(self.plan.wide):
            source = self._block(item, j) * (self.block_bytes // layout.codes) + line * ROW_BYTES
            source = em.bind("source", source)
            em.prefetch(self.stored, source + AHEAD * ROW_BYTES, level=1)
            codes = em.bind("codes", load(self.stored, source, ROW_BYTES))
            place = line % (self.passing * self.share) if self.passing else line
            to = em.bind("to", self._at(item, j) + place * (layout.codes * ROW_BYTES))
            for at in range(layout.codes):
                em.store(self.tiles, to + at * ROW_BYTES, self._weights(codes, at), ROW_BYTES)

    def _weights(self, codes: Expr, at: int) -> Expr:
        """The weights of step `at` of those that share their bytes: lowest + stride·code."""
        layout = self.layout
        (lowest, stride), bits = layout.grid, layout.code_bits
        words = tirx.reinterpret(f"uint16x{ROW_BYTES // 2}", codes)
        # Shifted so that the code stands for stride·code.
        shift = at * bits - (stride.bit_length() - 1)
        move = tirx.shift_right if shift > 0 else tirx.shift_left
        moved = move(words, const(abs(shift), "uint16", ROW_BYTES // 2)) if shift else words
        values = tirx.reinterpret(f"int8x{ROW_BYTES}", moved)
        mask = stride * ((1 << bits) - 1)
        masked = tirx.bitwise_and(values, const(mask, "int8", ROW_BYTES))
        return masked + const(lowest, "int8", ROW_BYTES)
