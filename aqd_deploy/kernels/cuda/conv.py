"""Convolutions: the family and tile of each, and the arguments of its launches (`native/conv.cuh`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from aqd_deploy.errors import ShapeError
from aqd_deploy.kernels.contract.choice import Choice
from aqd_deploy.kernels.contract.launches import Address, Buffer, CardLayout, Function, Launch, Room, whole
from aqd_deploy.kernels.contract.spec import ConvSpec, Map
from aqd_deploy.kernels.cuda.cards import Card
from aqd_deploy.kernels.cuda.chain import Chain, told
from aqd_deploy.kernels.cuda.layout import THREADS, DirectLayout, MatrixLayout, WeightForm, blocks_of
from aqd_deploy.kernels.cuda.tiles import TILES, Chosen, Walk, Work, choices

# Maps in one launch, as many as the kernels' argument has room for.
LEVELS = 8
# Taps that a mask of 32 bits tells apart.
_MASKED_TAPS = 32
_INT8 = np.iinfo(np.int8)
_DIRECT = Choice.of("direct")


@dataclass(frozen=True, eq=False)
class CudaConv:
    """See `contract.launches.CardConv`. A block has `rows` rows and `columns` columns, and `splits` blocks
    share a tile; `steps` of the depth in all. `resident`: blocks at most, which go on with other tiles. Two
    products of 4 bits count as one of `executed_macs`, whose time they take.
    """

    spec: ConvSpec
    chain: Chain
    images: int
    name: str
    why: str
    choice: Choice
    executed_macs: int
    layout: CardLayout
    function: Function
    rows: int
    columns: int
    steps: int = 0
    splits: int = 1
    shared: int = 0
    resident: int = 0

    def launches(
        self,
        source: Buffer,
        weights: Address,
        others: Sequence[Buffer],
        outputs: Sequence[Buffer],
        room: Room,
    ) -> list[Launch]:
        words = room.store(self.chain.words)
        row_bytes = self.chain.words[0].nbytes if self.chain.words.size else 0
        made = []
        for first in range(0, len(self.spec.maps), LEVELS):
            maps = self.spec.maps[first : first + LEVELS]
            written = outputs[first : first + LEVELS] if self.chain.borders else outputs
            tensors: list[Address | None] = [*self.chain.addresses(others, written, room)]
            tensors += [None] * (self.chain.tensors - len(tensors))
            grid, numbers = self._numbers(maps, source)
            sums = self._sums(grid, room)
            pointers = (source.address, weights, words + first * row_bytes, *sums, *tensors)
            blocks = min(grid, self.resident or grid) * self.splits
            made.append(Launch(self.function, blocks, pointers, numbers, self.shared))
        return made

    def _sums(self, grid: int, room: Room) -> tuple[Address | None, Address | None]:
        """Where blocks that share a tile add, and where they are counted."""
        if self.splits == 1:
            return None, None
        counters = -(-grid // 16) * 64
        arrived = room.sums(counters + grid * self.rows * self.columns * 4)
        return arrived + counters, arrived

    def _numbers(self, maps: Sequence[Map], source: Buffer) -> tuple[int, tuple[int, ...]]:
        """Blocks but for splits, and what `ConvArgs` takes beside addresses."""
        spec, pitch = self.spec, whole(self.spec.out_channels)
        rows = [self.images * m.out_height * m.out_width for m in maps]
        tiles = list(accumulate(-(-count // self.rows) for count in rows))
        columns = -(-pitch // self.columns)
        geometry = (*spec.kernel, *spec.strides, *spec.pads[:2], *spec.dilations)
        groups = (spec.in_channels // spec.group, spec.out_channels // spec.group)
        sizes = (source.pitch, spec.out_channels, pitch)
        levels: list[int] = []
        for m, count, end in zip(maps, rows, tiles, strict=True):
            starts = (m.in_start * self.images, m.out_start * self.images)
            levels += (m.height, m.width, m.out_height, m.out_width, *starts, count, end)
        levels += [0] * 8 * (LEVELS - len(maps))
        threads = isinstance(self.layout, DirectLayout)
        grid = blocks_of(tiles[-1] * pitch // 4) if threads else tiles[-1] * columns
        return grid, (*sizes, *geometry, self.steps, columns, self.splits, *groups, *levels)


def convolution(
    spec: ConvSpec, chain: Chain, images: int, card: Card, choice: Choice | None = None
) -> CudaConv:
    """See `contract.launches.CardBackend.convolution`; `chain` is all that follows the accumulators."""
    _check_output(spec)
    if spec.group > 1:
        found = [_direct(spec, chain, images)] if choice in (None, _DIRECT) else []
    else:
        able = ways(spec, chain, images, card)
        wanted = able[0].choice if choice is None else choice
        found = [matrix_conv(spec, chain, images, each, card) for each in able if each.choice == wanted]
    if not found:
        raise ShapeError("a convolution has no such kernel on this card", received=str(choice))
    return found[0]


def choices_of(spec: ConvSpec, chain: Chain, images: int, card: Card) -> list[Choice]:
    """See `contract.launches.CardBackend.choices`."""
    _check_output(spec)
    return [_DIRECT] if spec.group > 1 else [each.choice for each in ways(spec, chain, images, card)]


def _check_output(spec: ConvSpec) -> None:
    if any(m.out_height < 1 or m.out_width < 1 for m in spec.maps):
        raise ShapeError("a convolution has no output", received=f"{spec.height}x{spec.width}")


@dataclass(frozen=True)
class Factors:
    """How weights w are multiplied: as they are written, or with `odd` as 2·w + 1 of what is written."""

    form: WeightForm
    odd: bool


def factors_of(spec: ConvSpec) -> Factors:
    """As int8."""
    lowest, highest = spec.weight_range or (int(_INT8.min), int(_INT8.max))
    if spec.odd and 2 * lowest + 1 >= _INT8.min and 2 * highest + 1 <= _INT8.max:
        return Factors(WeightForm.DOUBLED, odd=False)
    return Factors(WeightForm.AS_STORED, spec.odd)


def half_factors_of(spec: ConvSpec) -> Factors | None:
    """As numbers of 4 bits; None where activations or weights have more. Odd weights up to ±15 are 2·w + 1 of
    such a number, which takes the sum of the window, of activations without a sign.
    """
    lowest, highest = (-8, 7) if spec.input_signed else (0, 15)
    if spec.input_range is None or spec.weight_range is None or spec.odd:
        return None
    if spec.input_range[0] < lowest or spec.input_range[1] > highest:
        return None
    first, last = spec.weight_range
    if first >= -8 and last <= 7:
        return Factors(WeightForm.AS_STORED, odd=False)
    if first >= -15 and last <= 15 and spec.weight_step % 2 == 0 and first % 2 and not spec.input_signed:
        return Factors(WeightForm.HALVED, odd=True)
    return None


def _flags(spec: ConvSpec, factors: Factors) -> str:
    return f"{told(spec.input_signed)}, {told(factors.odd)}"


def _direct(spec: ConvSpec, chain: Chain, images: int) -> CudaConv:
    factors = factors_of(spec)
    depthwise = spec.group == spec.in_channels == spec.out_channels
    code = f"conv_direct<{told(depthwise)}, {_flags(spec, factors)}, {chain.code}>"
    inputs, taps = spec.in_channels // spec.group, spec.kernel[0] * spec.kernel[1]
    macs = sum(m.out_height * m.out_width for m in spec.maps) * whole(spec.out_channels) * inputs * taps
    layout = DirectLayout(taps, inputs, whole(spec.out_channels), factors.form)
    function = Function(code, f"ConvArgs<{chain.tensors}>", THREADS)
    why = "channel groups: a thread has four channels of a pixel"
    columns = whole(spec.out_channels)
    return CudaConv(spec, chain, images, "direct", why, _DIRECT, macs, layout, function, 1, columns)


def walks_of(spec: ConvSpec, step: int) -> tuple[Walk, ...]:
    """How steps of `step` bytes may find their input."""
    taps = spec.kernel[0] * spec.kernel[1]
    if spec.in_channels % step or taps > _MASKED_TAPS:
        return (Walk.MIXED,)
    same = (spec.kernel, spec.strides, spec.pads, spec.dilations) == ((3, 3), (1, 1), (1, 1, 1, 1), (1, 1))
    return (Walk.HALO, Walk.CHUNK) if same else (Walk.CHUNK,)


_WHY = {
    Walk.CHUNK: "a step is one tap of a chunk of channels",
    Walk.MIXED: "few or odd channels: each 16 bytes of a step have their own tap",
    Walk.HALO: "3x3: three taps read one run of pixels",
}


def ways(spec: ConvSpec, chain: Chain, images: int, card: Card) -> list[Chosen]:
    """Every tile for a convolution in one channel group, by estimated time."""
    pixels = tuple(images * m.out_height * m.out_width for m in spec.maps)
    depth = spec.kernel[0] * spec.kernel[1] * whole(spec.in_channels)
    read = sum(images * m.height * m.width for m in spec.maps) * whole(spec.in_channels)
    work = Work(
        pixels,
        whole(spec.out_channels),
        depth,
        {step: walks_of(spec, step) for step in {tile.step for tile in TILES}},
        read + sum(pixels) * whole(spec.out_channels) * chain.moved,
        chain.adds,
        half_factors_of(spec) is not None,
    )
    return choices(work, card)


def matrix_conv(spec: ConvSpec, chain: Chain, images: int, chosen: Chosen, card: Card) -> CudaConv:
    """The convolution by matrix products with a choice of `ways`."""
    tile, walk = chosen.tile, chosen.walk
    factors = half_factors_of(spec) if tile.packed else factors_of(spec)
    if factors is None:
        raise ShapeError(
            "a tile of 4 bits needs such operands", received=f"{spec.weight_range}", valid="-8 … 7"
        )
    ch = tile.neighbours(chain.codes_only)
    pitch, taps = whole(spec.in_channels), spec.kernel[0] * spec.kernel[1]
    chunk = pitch if walk is Walk.MIXED else tile.step
    depth = -(-taps * pitch // tile.step) * tile.step
    columns = -(-whole(spec.out_channels) // tile.columns) * tile.columns
    kernel = "conv_wg" if tile.warpgroups else "conv_mma"
    code = f"{kernel}<{tile.code(ch)}, {walk.value}, {_flags(spec, factors)}, {chain.code}>"
    tiles = sum(-(-m.out_height * m.out_width // tile.rows) for m in spec.maps)
    tiled = (tile.columns, tile.step) if tile.warpgroups else None
    return CudaConv(
        spec,
        chain,
        images,
        f"{tile.family}_{walk.value.lower()}",
        _WHY[walk],
        chosen.choice,
        tiles * tile.rows * columns * depth // (2 if tile.packed else 1),
        MatrixLayout(columns, depth, chunk, ch, tile.group, factors.form, tile.packed, tiled),
        Function(code, f"ConvArgs<{chain.tensors}>", tile.threads, tile.blocks),
        tile.rows,
        tile.columns,
        depth // tile.step,
        chosen.splits,
        tile.shared(),
        card.multiprocessors * tile.blocks if tile.warpgroups else 0,
    )
