"""The int32 stream of a convolution stored as network outputs, [1, C, H, W] a map, without a pass of its own.

A row of register tiles is staged [pixels, channels] in the first cache and transposed from there in squares,
so each channel gets runs of neighbouring pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from aqd_deploy.kernels.emit import Buffer, Emitter, Expr, const, load
from aqd_deploy.kernels.spec import ConvSpec, Epilogue, Map, StoreStream
from aqd_deploy.kernels.stack import transposed

# The families of `kernels.conv` whose functions may have a `StoreBorder`.
FAMILIES_TO_BORDERS = ("blocked", "few")


@dataclass(frozen=True)
class StoreBorder(StoreStream):
    """Store v as int32 [1, C, H, W], one output a map; no parameters. The only store of its epilogue."""


def stores_borders(epilogue: Epilogue) -> bool:
    """Whether a `StoreBorder` is its store."""
    return any(isinstance(store, StoreBorder) for store in epilogue.stores)


def declare_borders(em: Emitter, spec: ConvSpec) -> list[Buffer]:
    """One output [1, C, H, W] for each of `spec.maps`."""
    return [
        em.parameter("border", (1, spec.out_channels, m.out_height, m.out_width), "int32") for m in spec.maps
    ]


class BorderStage:
    """The staged pixels of one row of register tiles: `rows` rows of `m`, `blocks` vectors of channels."""

    def __init__(self, em: Emitter, out: Buffer, m: Map, channels: int, tile: tuple[int, int, int]) -> None:
        rows, self.blocks, self.lanes = tile
        self.em, self.out, self.map, self.channels = em, out, m, channels
        self.pixels = rows * m.out_width
        self.width = self.blocks * self.lanes
        self.staged = em.alloc("staged", "int32", self.pixels * self.width)

    def put(self, pixel: Expr, channel: Expr, value: Expr, count: int) -> None:
        """`count` channels of the stage from `channel` on, of its pixel `pixel`."""
        self.em.store(self.staged, pixel * self.width + channel, value, count)

    def flush(self, top: Expr, block: Expr) -> None:
        """Write the stage, which begins at row `top` of the map and at vector `block` of its channels."""
        em, lanes = self.em, self.lanes
        full_blocks, rest = divmod(self.channels, lanes)
        first = em.bind("first", top * self.map.out_width)
        with em.loop("b", self.blocks) as b:
            if full_blocks:
                with em.when(block + b < full_blocks) if rest else em.always():
                    self._squares(first, (block + b) * lanes, b * lanes)
            if rest:
                with (
                    em.when(block + b >= full_blocks),
                    em.loop("lane", rest) as lane,
                    em.loop("pixel", self.pixels) as pixel,
                ):
                    value = load(self.staged, pixel * self.width + (b * lanes + lane))
                    at = ((block + b) * lanes + lane) * self._plane + (first + pixel)
                    em.store(self.out, at, value)

    @property
    def _plane(self) -> int:
        return self.map.out_height * self.map.out_width

    def _squares(self, first: Expr, channel: Expr, staged_channel: Expr) -> None:
        """All pixels of `lanes` channels, in the largest squares that fit; the last are shifted back."""
        em, lanes = self.em, self.lanes
        side = 1 << (min(self.pixels, lanes).bit_length() - 1)
        with (
            em.loop("across", -(-self.pixels // side)) as across,
            em.loop("down", lanes // side) as down,
        ):
            pixel = em.bind("pixel", tirx.Min(across * side, const(self.pixels - side)))
            base = em.bind("base", pixel * self.width + staged_channel + down * side)
            rows = [em.bind("row", load(self.staged, base + i * self.width, side)) for i in range(side)]
            to = em.bind("to", (channel + down * side) * self._plane + (first + pixel))
            for i, row in enumerate(transposed(em, rows)):
                em.store(self.out, to + i * self._plane, row, side)
