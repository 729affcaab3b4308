"""How a convolution on tiles is cut, and which cut a cost model prefers.

The tiles of pixels are shared out in `pixel_parts`, the blocks of output channels in `channel_parts`; a task
is one of each. Inside, `high` tiles of pixels meet `wide` of output channels in registers. Pixels outside:
their samples stay near while all weights pass; weights outside (`weights_first`): the other way round. A byte
of the weights in memory holds `codes` of them (`weights`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product

from aqd_deploy.kernels.contract.caches import Core
from aqd_deploy.kernels.contract.spec import ConvSpec
from aqd_deploy.kernels.cpu.amx.frame import Frame
from aqd_deploy.kernels.cpu.amx.tiles import ROWS, TILE_BYTES
from aqd_deploy.kernels.storage.layout import WeightLayout

# Cycles of one product of tiles, however few of its pixels or channels are needed.
PRODUCT_CYCLES = 16.0
# Bytes a cycle: of operands from the second-level cache while tiles are multiplied, of weights and samples
# that lie beyond it, and of the copy into a frame.
L2_BYTES_PER_CYCLE = 52.0
FAR_BYTES_PER_CYCLE = 2.7
COPY_BYTES_PER_CYCLE = 16.0
# Bytes of weights a cycle that are expanded from codes: products wait for it.
EXPAND_BYTES_PER_CYCLE = 10.0
# Cycles of one step beside its products, of a block of sums, of a task, and of one vector in an epilogue.
STEP_CYCLES = 14.0
BLOCK_CYCLES = 200.0
TASK_CYCLES = 1500.0
VECTOR_CYCLES = 12.0
# Steps whose weights lie expanded at a time where each is multiplied once: in the first-level cache.
PASSING = 4
# The part of the epilogue that does not hide behind the products.
EXPOSED = 0.25
# Part of a core's second-level cache that operands may take which are read again and again.
NEAR = 0.7


@dataclass(frozen=True)
class Plan:
    """See the module."""

    pixel_parts: int
    channel_parts: int
    high: int = 2
    wide: int = 2
    weights_first: bool = False
    codes: int = 1

    @property
    def tasks(self) -> int:
        return self.pixel_parts * self.channel_parts

    @property
    def sums(self) -> int:
        """Tiles of sums."""
        return self.high * self.wide

    def items(self, blocks: int) -> int:
        """How many times `wide` blocks there are of `blocks`, with what the last one lacks."""
        return -(-blocks // self.wide)

    def parameters(self) -> dict[str, int]:
        """The fields as numbers, by name (`contract.choice.Choice`)."""
        return {name: int(value) for name, value in asdict(self).items()}

    @classmethod
    def from_parameters(cls, values: Mapping[str, int]) -> Plan:
        """The inverse of `parameters`."""
        rest = {name: value for name, value in values.items() if name != "weights_first"}
        return cls(**rest, weights_first=bool(values["weights_first"]))


def plans(
    spec: ConvSpec, layout: WeightLayout, codes: Sequence[int], threads: int, core: Core
) -> list[tuple[float, Plan]]:
    """(estimated cycles on `threads` threads, plan) of every plan with one of `codes`, the best first."""
    found: list[tuple[float, Plan]] = []
    for high, wide in _shapes(layout.blocks):
        frame = Frame.of(spec, ROWS * high)
        items = -(-layout.blocks // wide)
        cuts = product(_parts(frame.tiles, threads), sorted({1, min(threads, items)}), (False, True), codes)
        for pixel_parts, channel_parts, weights_first, packed in cuts:
            plan = Plan(pixel_parts, channel_parts, high, wide, weights_first, packed)
            # What is expanded must stay near until it is multiplied.
            if packed == 1 or expanded_bytes(frame, layout, plan) <= NEAR * core.l2 / 4:
                found.append((_cycles(frame, layout, plan, threads, core), plan))
    found.sort(key=lambda entry: entry[0])
    return found


def _shapes(blocks: int) -> tuple[tuple[int, int], ...]:
    """Tiles in registers, `high` by `wide`. Two by two load the least; four by one waste nothing of an odd
    number of blocks, which is a sixth of five and more of fewer.
    """
    if blocks % 2 == 0:
        return ((2, 2),)
    return ((4, 1),) if blocks <= 5 else ((2, 2), (4, 1))


def expanded_bytes(frame: Frame, layout: WeightLayout, plan: Plan) -> int:
    """The buffer of a task whose weights are codes: of the item at hand and the next one, of all items where
    each tile of pixels meets them all, or of the next steps where weights are multiplied once.
    """
    if steps := passing_steps(frame, layout, plan):
        return steps * plan.wide * TILE_BYTES
    items = 2 if plan.weights_first else -(-plan.items(layout.blocks) // plan.channel_parts)
    return items * plan.wide * weight_steps(layout) * TILE_BYTES


def passing_steps(frame: Frame, layout: WeightLayout, plan: Plan) -> int:
    """How many steps' weights are expanded in advance where a task has one tile of pixels, each after the
    products of the step whose place it takes; 0 where weights meet more tiles, or are no codes.
    """
    if plan.codes == 1 or frame.tiles > plan.pixel_parts:
        return 0
    steps = weight_steps(layout)
    return max(n for n in range(1, PASSING + 1) if steps % n == 0)


def weight_steps(layout: WeightLayout) -> int:
    """Tiles of weights of a block."""
    return layout.rows * layout.segments * layout.steps // ROWS


def _parts(tiles: int, threads: int) -> list[int]:
    """Numbers of parts that pixels are cut into: multiples of the threads, and few parts."""
    counts = {1, 2, *(threads * n for n in (1, 2, 4, 8, 16))}
    return sorted({min(count, tiles) for count in counts})


def _cycles(frame: Frame, layout: WeightLayout, plan: Plan, threads: int, core: Core) -> float:
    """Tasks run in rounds; weights come from far away in the first one, in all where they are too many."""
    spec, near = frame.spec, NEAR * core.l2
    pixels = frame.plane_pixels(plan.pixel_parts)
    part_bytes = pixels * spec.in_channels * len(frame.planes)
    task = TASK_CYCLES + (part_bytes / COPY_BYTES_PER_CYCLE if frame.copies else 0.0)
    item_bytes = plan.wide * weight_steps(layout) * TILE_BYTES
    items = -(-plan.items(layout.blocks) // plan.channel_parts)
    fetch = item_bytes / plan.codes / FAR_BYTES_PER_CYCLE
    if frame.copies and part_bytes > near:
        # The frame is written to where it must be fetched from.
        task += 2 * part_bytes / FAR_BYTES_PER_CYCLE
    if plan.weights_first:
        if part_bytes > near:
            task += part_bytes * (items - 1) / FAR_BYTES_PER_CYCLE
        # Lines of the output are written a part in each pass.
        if pixels * spec.out_channels > near / 8:
            task += pixels * spec.out_channels / FAR_BYTES_PER_CYCLE
    else:
        passes = -(-frame.tiles // plan.pixel_parts)
        if items * item_bytes > near:
            task += items * item_bytes * (passes - 1) / FAR_BYTES_PER_CYCLE
    task += _crossing(spec, plan, pixels) / FAR_BYTES_PER_CYCLE
    first = task + _products(frame, layout, plan, items, fetch)
    kept = items * item_bytes / plan.codes <= near / 4
    rounds = -(-plan.tasks // threads)
    return first + (rounds - 1) * (task + _products(frame, layout, plan, items, 0.0 if kept else fetch))


def _crossing(spec: ConvSpec, plan: Plan, pixels: int) -> float:
    """Bytes of `pixels` that come from another core's cache, or go there: layers mostly share out pixels, so
    a task of some of the channels reads what other cores wrote, and the other way round.
    """
    others = 1 - 1 / plan.channel_parts
    return others * pixels * (spec.in_channels + spec.out_channels / plan.channel_parts)


def _products(frame: Frame, layout: WeightLayout, plan: Plan, items: int, fetch: float) -> float:
    """Of a task. An item, which takes `fetch` cycles to come, does so while the one before it is multiplied;
    nothing hides the first one.
    """
    tiles, steps = -(-frame.tiles // plan.pixel_parts), weight_steps(layout)
    operands = (plan.high + plan.wide) * TILE_BYTES / L2_BYTES_PER_CYCLE
    products = steps * (STEP_CYCLES + max(plan.sums * PRODUCT_CYCLES, operands))
    vectors = frame.pixels * plan.wide * VECTOR_CYCLES
    block = BLOCK_CYCLES + max(products, vectors) + EXPOSED * min(products, vectors)
    expand = plan.wide * steps * TILE_BYTES / EXPAND_BYTES_PER_CYCLE if plan.codes > 1 else 0.0
    first = max(fetch, expand) * (passing_steps(frame, layout, plan) / steps or 1.0)
    if plan.weights_first:
        return first + items * max(tiles * block + expand, fetch)
    return first + items * (max(block + expand, fetch) + (tiles - 1) * block)
