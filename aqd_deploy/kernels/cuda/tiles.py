"""The tiles of convolutions on tensor cores, and which of them a convolution gets."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from aqd_deploy.kernels.contract.choice import Choice

# Bytes of the zeros that a halo reads at the edges of a map, behind the stages.
_ZEROS = 16


class Walk(Enum):
    """How a step finds its input (`native/conv_mma.cuh`)."""

    CHUNK = "CHUNK"
    MIXED = "MIXED"
    HALO = "HALO"


@dataclass(frozen=True)
class Tile:
    """`rows` x `columns` outputs a block, `warp` of them a warp, `step` bytes of depth a step, `stages` steps
    in flight; `split` groups of warps share the depth of a step; `blocks` on a multiprocessor.
    """

    rows: int
    columns: int
    warp: tuple[int, int]
    step: int
    stages: int
    split: int
    blocks: int

    @property
    def threads(self) -> int:
        return self.rows // self.warp[0] * (self.columns // self.warp[1]) * 32 * self.split

    def code(self, ch: int) -> str:
        """The C++ type, for threads that have runs of `ch` channels."""
        sizes = (self.rows, self.columns, *self.warp, self.step, self.stages, self.split, ch)
        return f"Tile<{', '.join(map(str, sizes))}>"

    def shared(self, walk: Walk) -> int:
        """Bytes of shared memory."""
        halo = walk is Walk.HALO
        patch = -(-(self.rows + 2 * halo) * self.step // 1024) * 1024
        return self.stages * (patch + (3 if halo else 1) * self.columns * self.step) + _ZEROS

    def choice(self, walk: Walk, splits: int) -> Choice:
        """How tuning would name it."""
        return Choice.of(
            f"mma_{walk.value.lower()}", rows=self.rows, columns=self.columns, step=self.step,
            stages=self.stages, split=self.split, splits=splits,
        )  # fmt: skip


SMALL = Tile(64, 64, (32, 32), 64, 4, 1, 3)
