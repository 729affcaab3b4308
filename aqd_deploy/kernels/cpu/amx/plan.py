"""How a convolution on tiles is cut, and which cut a cost model prefers.

The tiles of pixels are shared out in `pixel_parts`, the blocks of output channels in `channel_parts`; a task
is one of each. Inside, `high` tiles of pixels meet `wide` of output channels in registers. Pixels outside:
their samples stay near while all weights pass; weights outside (`weights_first`): the other way round.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from aqd_deploy.kernels.contract.caches import Core
from aqd_deploy.kernels.contract.spec import ConvSpec
from aqd_deploy.kernels.cpu.amx.frame import Frame
from aqd_deploy.kernels.cpu.amx.tiles import ROWS, TILE_BYTES
from aqd_deploy.kernels.storage.layout import WeightLayout

# Cycles of one product of tiles, however few of its pixels or channels are needed.
PRODUCT_CYCLES = 16.0
# Bytes a cycle: of operands from the second-level cache while tiles are multiplied, of weights and samples
# that lie beyond it, and of the copy into a frame.
L2_BYTES_PER_CYCLE = 76.0
FAR_BYTES_PER_CYCLE = 4.5
COPY_BYTES_PER_CYCLE = 16.0
# Cycles of one step beside its products, of a block of sums, of a task, and of one vector in an epilogue.
STEP_CYCLES = 6.0
BLOCK_CYCLES = 200.0
TASK_CYCLES = 1500.0
VECTOR_CYCLES = 5.0
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


def plans(spec: ConvSpec, layout: WeightLayout, threads: int, core: Core) -> list[tuple[float, Plan]]:
    """(estimated cycles on `threads` threads, plan) of every plan, the best first."""
    found: list[tuple[float, Plan]] = []
    for high, wide in ((2, 2), (4, 1)):
        frame = Frame.of(spec, ROWS * high)
        items = -(-layout.blocks // wide)
        for pixel_parts in _parts(frame.tiles, threads):
            for channel_parts in sorted({1, min(threads, items)}):
                for weights_first in (False, True):
                    plan = Plan(pixel_parts, channel_parts, high, wide, weights_first)
                    found.append((_cycles(frame, layout, plan, threads, core), plan))
    found.sort(key=lambda entry: entry[0])
    return found


def _parts(tiles: int, threads: int) -> list[int]:
    """Numbers of parts that pixels are cut into: multiples of the threads, and few parts."""
    counts = {1, 2, *(threads * n for n in (1, 2, 4, 8, 16))}
    return sorted({min(count, tiles) for count in counts})


def _cycles(frame: Frame, layout: WeightLayout, plan: Plan, threads: int, core: Core) -> float:
    spec = frame.spec
    tiles = -(-frame.tiles // plan.pixel_parts)
    items = -(-plan.items(layout.blocks) // plan.channel_parts)
    steps = layout.rows * layout.segments * layout.steps // ROWS
    operands = (plan.high + plan.wide) * TILE_BYTES / L2_BYTES_PER_CYCLE
    products = steps * (STEP_CYCLES + max(plan.sums * PRODUCT_CYCLES, operands))
    vectors = frame.pixels * plan.wide * VECTOR_CYCLES
    block = BLOCK_CYCLES + max(products, vectors) + EXPOSED * min(products, vectors)
    item_bytes = plan.wide * steps * TILE_BYTES
    part_bytes = frame.plane_pixels(plan.pixel_parts) * spec.in_channels * len(frame.planes)
    # What is passed over again and again for each tile or item, and how often.
    passed, times = (part_bytes, items) if plan.weights_first else (items * item_bytes, tiles)
    near = passed <= NEAR * core.l2
    far = 0.0 if near else passed * (times - 1) / FAR_BYTES_PER_CYCLE
    if not plan.weights_first:
        # The first pass over the weights: nothing hides it.
        far += items * item_bytes / FAR_BYTES_PER_CYCLE
    copy = part_bytes / COPY_BYTES_PER_CYCLE if frame.copies else 0.0
    if frame.copies and part_bytes > NEAR * core.l2:
        # The frame is written to where it must be fetched from.
        copy += 2 * part_bytes / FAR_BYTES_PER_CYCLE
    rounds = -(-plan.tasks // threads)
    return rounds * (TASK_CYCLES + copy + tiles * items * block + far)
