"""The tiles of convolutions on tensor cores, and the estimate by which a convolution gets one.

The time of a launch is that of its waves of blocks, each a fixed part and one that grows with the depth;
memory goes on beside products, but for some of the shorter of the two. The numbers were fitted to 1,132
launches of two networks on an H100, where the tiles so chosen take one to two per cent more than the best
ones; on other cards they order the same tiles, which is not measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from aqd_deploy.kernels.contract.choice import Choice
from aqd_deploy.kernels.cuda.cards import Card

# Bytes of the zeros that a halo reads at the edges of a map, and of two barriers a stage.
_ZEROS, _BARRIERS = 16, 16
# What products take with a single block on a multiprocessor, of the time with all that fit.
_ALONE = 0.5
# A launch, and what a warpgroup needs before its first product.
_START, _WARPGROUP_START = 1.1, 3.2
# Of the shorter of two times, products and memory, what does not overlap.
_APART = 0.4
# Sums of several blocks that share a tile: microseconds, and bytes a microsecond of atomic additions.
_JOIN, _JOIN_RATE = 0.9, 1.5e6
# Blocks that share a tile must be few enough to run at once, and have some steps each.
_SPLITS, _SPLIT_BLOCKS, _SPLIT_STEPS = (2, 4, 8, 16), 5, 3
_MIXED = 1.2
# Products of 4 bits, of the time of those of 8: half of it, and what does not get faster. Not measured.
_HALVES = 0.6


class Walk(Enum):
    """How a step finds its input (`native/copier.cuh`)."""

    CHUNK = "CHUNK"
    MIXED = "MIXED"
    HALO = "HALO"


@dataclass(frozen=True)
class Tile:
    """`rows` x `columns` outputs a block, `step` bytes of depth a step, `stages` steps in flight, `blocks` on
    a multiprocessor. Of mma.sync: `warp`, outputs of a warp, `split` groups of warps that share the depth of
    a step, `packed` where products are of 4 bits, two weights a byte. Of wgmma: `warpgroups` that multiply.
    `fixed` and `slope` (a thousand bytes of depth): microseconds of a block, with a halo `halo`.
    """

    rows: int
    columns: int
    step: int
    stages: int
    blocks: int
    fixed: float
    slope: float
    warp: tuple[int, int] = (0, 0)
    split: int = 1
    warpgroups: int = 0
    halo: bool = False
    packed: bool = False

    @property
    def threads(self) -> int:
        if self.warpgroups:
            return (self.warpgroups + 1) * 128
        return self.rows // self.warp[0] * (self.columns // self.warp[1]) * 32 * self.split

    @property
    def group(self) -> int:
        """Columns whose order threads agree on."""
        return 64 if self.warpgroups else self.warp[1]

    @property
    def family(self) -> str:
        return "wgmma" if self.warpgroups else "mma4" if self.packed else "mma"

    def neighbours(self, codes_only: bool) -> int:
        """Neighbouring channels of a thread, so that it stores 16 bytes at once where it can."""
        return min(16, self.group // 4) if codes_only else 4

    def code(self, ch: int) -> str:
        """The C++ type, for threads that have runs of `ch` channels."""
        if self.warpgroups:
            high = self.rows // 64 // self.warpgroups
            groups = (self.warpgroups, high, self.columns, self.step, self.stages, ch)
            return f"WarpgroupTile<{', '.join(map(str, groups))}>"
        sizes = (self.rows, self.columns, *self.warp, self.step, self.stages, self.split, ch)
        return f"Tile<{', '.join(map(str, sizes))}{', 2' * self.packed}>"

    def shared(self) -> int:
        """Bytes of shared memory."""
        patch = -(-(self.rows + 2 * self.halo) * self.step // 1024) * 1024
        weights = (3 if self.halo else 1) * self.columns * self.step
        stage = patch + (weights // 2 if self.packed else weights)
        return self.stages * stage + _ZEROS + self.stages * _BARRIERS * bool(self.warpgroups)


def _mma(
    rows: int, columns: int, warp: tuple[int, int], step: int, stages: int, blocks: int,
    times: tuple[float, float], split: int = 1, halo: bool = False,
) -> Tile:  # fmt: skip
    return Tile(rows, columns, step, stages, blocks, *times, warp=warp, split=split, halo=halo)


def _halves(
    rows: int, columns: int, warp: tuple[int, int], stages: int, blocks: int, times: tuple[float, float],
    halo: bool = False,
) -> Tile:  # fmt: skip
    """`times` are those of the same tile of 8 bits."""
    fixed, slope = times
    return Tile(
        rows, columns, 128, stages, blocks, fixed, slope * _HALVES, warp=warp, halo=halo, packed=True
    )  # fmt: skip


def _wgmma(
    rows: int, columns: int, warpgroups: int, step: int, stages: int, times: tuple[float, float],
    halo: bool = False,
) -> Tile:  # fmt: skip
    blocks = 3 - warpgroups
    return Tile(rows, columns, step, stages, blocks, *times, warpgroups=warpgroups, halo=halo)


TILES = (
    _mma(128, 128, (64, 64), 64, 4, 2, (5.6, 9.5)),
    _mma(128, 128, (64, 64), 64, 3, 2, (5.7, 9.7)),
    _mma(128, 64, (64, 32), 64, 4, 2, (3.5, 8.1)),
    _mma(64, 64, (32, 32), 64, 4, 3, (2.2, 6.8)),
    _mma(64, 64, (32, 32), 128, 4, 3, (2.9, 5.0)),
    _mma(32, 64, (32, 32), 128, 5, 1, (2.5, 2.2), split=4),
    _mma(128, 128, (64, 64), 64, 3, 2, (4.7, 8.0), halo=True),
    _mma(128, 64, (64, 32), 64, 3, 2, (2.3, 6.3), halo=True),
    _mma(64, 64, (32, 32), 64, 4, 3, (1.8, 5.0), halo=True),
    _halves(128, 64, (64, 32), 3, 2, (3.5, 8.1)),
    _halves(64, 64, (32, 32), 4, 2, (2.9, 5.0)),
    _halves(128, 64, (64, 32), 2, 2, (2.3, 6.3), halo=True),
    _halves(64, 64, (32, 32), 3, 2, (1.8, 5.0), halo=True),
    _wgmma(128, 256, 2, 128, 4, (2.9, 5.2)),
    _wgmma(256, 128, 2, 64, 6, (5.7, 4.5)),
    _wgmma(128, 128, 1, 128, 3, (3.4, 6.5)),
    _wgmma(64, 128, 1, 64, 4, (2.0, 4.1)),
    _wgmma(128, 256, 2, 64, 3, (6.0, 3.8), halo=True),
    _wgmma(256, 128, 2, 64, 4, (5.7, 6.4), halo=True),
    _wgmma(128, 128, 1, 64, 3, (5.1, 5.0), halo=True),
    _wgmma(128, 64, 1, 64, 4, (1.8, 3.9), halo=True),
)


@dataclass(frozen=True)
class Work:
    """What a convolution asks: output `pixels` of each map over all images, `columns`, bytes of `depth`, the
    `walk` that a step of so many bytes allows (`walks`), bytes that move in all, whether it adds a tensor,
    and whether its operands have 4 bits (`halves`).
    """

    pixels: tuple[int, ...]
    columns: int
    depth: int
    walks: dict[int, tuple[Walk, ...]]
    moved: float
    adds: bool
    halves: bool = False


@dataclass(frozen=True)
class Chosen:
    """A tile, how its steps walk, how many blocks share one, and the estimate in microseconds."""

    tile: Tile
    walk: Walk
    splits: int
    microseconds: float

    @property
    def choice(self) -> Choice:
        """How programs and records tell it."""
        tile = self.tile
        return Choice.of(
            f"{tile.family}_{self.walk.value.lower()}", rows=tile.rows, columns=tile.columns, step=tile.step,
            stages=tile.stages, split=tile.split, warpgroups=tile.warpgroups, splits=self.splits,
        )  # fmt: skip


def choices(work: Work, card: Card) -> list[Chosen]:
    """Every way, the fastest first by its estimate."""
    found = [each for tile in TILES if _fits(tile, work, card) for each in _ways(tile, work, card)]
    return sorted(found, key=lambda each: each.microseconds)


def _fits(tile: Tile, work: Work, card: Card) -> bool:
    if tile.shared() > card.shared or (tile.warpgroups and not card.warpgroups):
        return False
    if tile.packed and not (card.halves and work.halves):
        return False
    # The other operand of an addition waits in registers from the beginning, in many small blocks.
    most = 1024 if tile.packed else 2048
    small = tile.columns == 64 if tile.warpgroups else tile.warp[0] * tile.warp[1] <= most
    return small or not work.adds


def _ways(tile: Tile, work: Work, card: Card) -> Iterator[Chosen]:
    for walk in work.walks[tile.step]:
        if (walk is Walk.HALO) != tile.halo:
            continue
        tiles = sum(-(-count // tile.rows) for count in work.pixels) * -(-work.columns // tile.columns)
        steps = -(-work.depth // tile.step) // (3 if tile.halo else 1)
        yield Chosen(tile, walk, 1, _estimate(tile, walk, work, card, tiles, 1))
        if tile.warpgroups or tile.split > 1 or tile.rows * tile.columns > 64 * 64:
            continue
        for splits in _SPLITS:
            if tiles * splits <= _SPLIT_BLOCKS * card.multiprocessors and steps // splits >= _SPLIT_STEPS:
                yield Chosen(tile, walk, splits, _estimate(tile, walk, work, card, tiles, splits))


def _estimate(tile: Tile, walk: Walk, work: Work, card: Card, tiles: int, splits: int) -> float:
    blocks, depth = tiles * splits, -(-work.depth // splits)
    on_one = -(-blocks // card.multiprocessors)
    slope = tile.slope * (_MIXED if walk is Walk.MIXED else 1)
    block = tile.fixed + depth / 1000 * slope
    whole, rest = divmod(on_one, tile.blocks)
    products = block * whole
    if rest:
        products += tile.fixed + depth / 1000 * slope * max(_ALONE, rest / tile.blocks)
    products += _WARPGROUP_START if tile.warpgroups else _START
    memory = work.moved / card.bandwidth
    joined = 0.0
    if splits > 1:
        joined = _JOIN + 8 * blocks * tile.rows * tile.columns / _JOIN_RATE
    return max(products, memory) + _APART * min(products, memory) + joined
