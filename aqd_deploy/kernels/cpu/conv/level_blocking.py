"""How a convolution over several maps is cut: the largest map alone, the small ones in one batch.

The maps of a batch are computed by the same task, channels outermost, so that one pass over the weights
serves them all; therefore they share `parts` and `blocks`, and each lies whole in one strip.
"""

from __future__ import annotations

from dataclasses import dataclass

from aqd_deploy.kernels.contract.spec import ConvSpec, Map
from aqd_deploy.kernels.cpu.conv.blocking import Blocking, choose_blocking, most_strip_bytes, register_tiles
from aqd_deploy.kernels.cpu.isa.dot_product import DotProduct
from aqd_deploy.kernels.storage.layout import WeightLayout


@dataclass(frozen=True)
class Batch:
    """Indices into `ConvSpec.maps` and the blocking of each; more than one only with `strips` of 1."""

    members: tuple[int, ...]
    plans: tuple[Blocking, ...]

    @property
    def tasks(self) -> int:
        return self.plans[0].strips * self.plans[0].parts


def largest(spec: ConvSpec) -> int:
    """The index of the map with the most output pixels: the one whose blocking is tuned."""
    sizes = [m.out_height * m.out_width for m in spec.maps]
    return sizes.index(max(sizes))


def level_batches(
    spec: ConvSpec, layout: WeightLayout, dots: DotProduct, threads: int, copies: bool, first: Blocking
) -> list[Batch]:
    """The batches of `spec`; `first` is the blocking of its largest map."""
    main = largest(spec)
    batches = [Batch((main,), (first,))]
    small: list[int] = []
    # A batch is shared by channels: too few of them would leave threads without work.
    room = most_strip_bytes(dots.core) if layout.blocks >= threads else 0
    by_size = sorted(range(len(spec.maps)), key=lambda i: spec.maps[i].height * spec.maps[i].width)
    for i in by_size:
        room -= _strip_bytes(spec, spec.maps[i], dots)
        if i == main:
            continue
        if room >= 0:
            small.append(i)
        else:
            plan = choose_blocking(spec.alone(spec.maps[i]), layout, dots, threads, copies)
            batches.append(Batch((i,), (plan,)))
    if small:
        batches.append(_joined(spec, layout, dots, threads, sorted(small)))
    return batches


def _strip_bytes(spec: ConvSpec, m: Map, dots: DotProduct) -> int:
    rows, columns = m.height + spec.pads[0] + spec.pads[2], m.width + spec.pads[1] + spec.pads[3]
    return rows * columns * spec.in_channels * dots.sample_bytes


def _joined(
    spec: ConvSpec, layout: WeightLayout, dots: DotProduct, threads: int, members: list[int]
) -> Batch:
    """The common `blocks` with the least time over all members; channels are what the threads share."""
    group_blocks = layout.blocks // spec.group
    best: tuple[float, int, list[tuple[int, int]]] | None = None
    candidates = [register_tiles(spec.alone(spec.maps[i]), layout, dots) for i in members]
    for blocks in {blocks for _, blocks, _ in candidates[0]}:
        cost = 0.0
        tiles: list[tuple[int, int]] = []
        for i, found in zip(members, candidates, strict=True):
            m = spec.maps[i]
            options = [
                (-(-m.out_height // tile[0]) * -(-m.out_width // tile[1]) * cycles, tile)
                for tile, width, cycles in found
                if width == blocks
            ]
            least, tile = min(options)
            cost += least
            tiles.append(tile)
        items = spec.group * -(-group_blocks // blocks)
        total = -(-items // min(threads, items)) * cost
        if best is None or total < best[0]:
            best = total, blocks, tiles
    assert best is not None
    _, blocks, tiles = best
    items = spec.group * -(-group_blocks // blocks)
    parts = min(threads, items)
    if (parts - 1) * -(-items // parts) >= items:
        parts = 1
    plans = [
        Blocking(spec.maps[i].out_height, 1, parts, tile, blocks)
        for i, tile in zip(members, tiles, strict=True)
    ]
    return Batch(tuple(members), tuple(plans))
