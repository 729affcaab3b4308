"""How a convolution is cut: strips of rows and parts of channels for the threads, register tiles inside.

A task computes `rows` output rows of `1/parts` of the output channels. Inside, a register tile is `tile` =
(rows, columns) of pixels times `blocks` vectors of output channels; it runs over the whole reduction before
it is stored. With `pixels_first` a tile of pixels meets all channels before the next one, which writes whole
pixels at a time; it pays where all weights stay in the cache.

Tiles at the end of a row are shifted back inside the map, so nothing needs a remainder loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from aqd_deploy.kernels.contract.caches import Core
from aqd_deploy.kernels.contract.spec import ConvSpec
from aqd_deploy.kernels.cpu.conv.partial_sums import chunks
from aqd_deploy.kernels.cpu.isa.dot_product import DotProduct
from aqd_deploy.kernels.storage.layout import WeightLayout

# Bytes a cycle that the second-level cache delivers while the multipliers run, and that a copy moves.
L2_BYTES_PER_CYCLE = 24.0
COPY_BYTES_PER_CYCLE = 12.0
# The part of one step's loop overhead that does not hide behind the multipliers.
STEP_CYCLES = 0.5
LOOP_UOPS = 2
ISSUE_WIDTH = 4
LOADS_PER_CYCLE = 2
# Storing one vector through an epilogue, in cycles.
STORE_CYCLES = 12.0


def most_strip_bytes(core: Core) -> int:
    """What the padded copy of a strip may take of the second-level cache; the weights of a tile need the
    rest.
    """
    return core.l2 // 4


def most_weight_bytes(core: Core) -> int:
    """Packed weights that may be read again for each tile of pixels."""
    return core.l2 // 4


@dataclass(frozen=True)
class Blocking:
    """See the module; `strips`·`rows` covers the output rows, the last strip is shifted back inside."""

    rows: int
    strips: int
    parts: int
    tile: tuple[int, int]
    blocks: int
    pixels_first: bool = False

    @property
    def pixels(self) -> int:
        return self.tile[0] * self.tile[1]

    def writes_once(self, spec: ConvSpec, group_blocks: int) -> bool:
        """Whether no tile is shifted back over another, for `group_blocks` vectors of channels a group."""
        even = self.rows * self.strips == spec.out_height and self.rows % self.tile[0] == 0
        return even and spec.out_width % self.tile[1] == 0 and group_blocks % self.blocks == 0

    def parameters(self) -> dict[str, int]:
        """The fields as numbers, by name (`kernels.choice.Choice`)."""
        return {
            "rows": self.rows,
            "strips": self.strips,
            "parts": self.parts,
            "tile_rows": self.tile[0],
            "tile_columns": self.tile[1],
            "blocks": self.blocks,
            "pixels_first": int(self.pixels_first),
        }

    @classmethod
    def from_parameters(cls, values: Mapping[str, int]) -> Blocking:
        """The inverse of `parameters`."""
        tile = (values["tile_rows"], values["tile_columns"])
        first = bool(values["pixels_first"])
        return cls(values["rows"], values["strips"], values["parts"], tile, values["blocks"], first)


def choose_blocking(
    spec: ConvSpec, layout: WeightLayout, dots: DotProduct, threads: int, copies: bool
) -> Blocking:
    """The blocking with the least estimated time on `threads` threads."""
    return blockings(spec, layout, dots, threads, copies)[0][1]


def blockings(
    spec: ConvSpec, layout: WeightLayout, dots: DotProduct, threads: int, copies: bool
) -> list[tuple[float, Blocking]]:
    """(estimated cycles on `threads` threads, blocking) of every blocking that fits, the best first."""
    group_blocks = layout.blocks // spec.group
    tiles = register_tiles(spec, layout, dots)
    sample_bytes = dots.sample_bytes
    found: list[tuple[float, Blocking]] = []
    pixels_first = prod(layout.shape) <= most_weight_bytes(dots.core)
    for rows in sorted({-(-spec.out_height // n) for n in range(1, spec.out_height + 1)}, reverse=True):
        strips = -(-spec.out_height // rows)
        in_rows = (rows - 1) * spec.strides[0] + (spec.kernel[0] - 1) * spec.dilations[0] + 1
        strip_bytes = in_rows * (spec.width + spec.pads[1] + spec.pads[3]) * spec.in_channels * sample_bytes
        if strip_bytes > most_strip_bytes(dots.core) and rows > 1:
            continue
        copy_cost = strip_bytes / COPY_BYTES_PER_CYCLE if copies else 0.0
        for tile, blocks, tile_cost in tiles:
            if tile[0] > rows:
                continue
            per_row = -(-rows // tile[0]) * -(-spec.out_width // tile[1])
            items = spec.group * -(-group_blocks // blocks)
            for parts in {1, min(2, items), min(4, items), min(threads, items)}:
                share = -(-items // parts)
                if (parts - 1) * share >= items:
                    continue
                rounds = -(-strips * parts // threads)
                cost = rounds * (copy_cost + per_row * share * tile_cost)
                found.append((cost, Blocking(rows, strips, parts, tile, blocks, pixels_first)))
    found.sort(key=lambda entry: entry[0])
    return found


def register_tiles(
    spec: ConvSpec, layout: WeightLayout, dots: DotProduct
) -> list[tuple[tuple[int, int], int, float]]:
    """(tile, blocks, cycles) of every register tile that fits."""
    reduction = layout.kernel[0] * layout.segments * layout.steps
    widenings = chunks(layout, dots).count if dots.partial_steps else 0
    finish = STORE_CYCLES + widenings * dots.widen_cycles
    found = []
    for blocks in range(1, min(layout.blocks // spec.group, 6) + 1):
        pixel_limit = dots.most_pixels(blocks)
        for high in range(1, min(spec.out_height, pixel_limit) + 1):
            for wide in range(1, min(spec.out_width, pixel_limit // high) + 1):
                pixels = high * wide
                products = -(-pixels // dots.pixels) * dots.pixels * blocks
                uops = (
                    products * dots.product_uops
                    + pixels * dots.sample_uops / dots.sample_steps
                    + blocks * dots.weight_uops
                    + LOOP_UOPS
                )
                step = STEP_CYCLES + max(
                    products * dots.product_cycles + pixels * dots.sample_cycles,
                    uops / ISSUE_WIDTH,
                    (pixels / dots.sample_steps + blocks) / LOADS_PER_CYCLE,
                    blocks * dots.lanes * dots.dot / L2_BYTES_PER_CYCLE,
                )
                found.append(((high, wide), blocks, reduction * step + products * finish))
    return found
