"""How weights lie in a card's memory (`native/unpack.cuh`)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from aqd_deploy.kernels.contract.launches import Address, Function, Launch, StoredCodes

THREADS = 256


def blocks_of(count: int) -> int:
    """Blocks of `THREADS` threads for `count` threads."""
    return -(-count // THREADS)


class WeightForm(Enum):
    """What is written of a stored weight w: itself, 2·w + 1, (w − 1) / 2."""

    AS_STORED = 0
    DOUBLED = 1
    HALVED = 2


@dataclass(frozen=True)
class MatrixLayout:
    """[columns][depth]: depth in chunks of `chunk` channels, columns permuted in groups of `group` so that a
    thread has `ch` neighbours. `packed`: two weights of 4 bits a byte. `tiled`: columns of a tile and bytes
    of a step where each step of a tile lies in one piece.
    """

    columns: int
    depth: int
    chunk: int
    ch: int
    group: int
    form: WeightForm
    packed: bool = False
    tiled: tuple[int, int] | None = None

    @property
    def bytes(self) -> int:
        return self.columns * self.depth // (2 if self.packed else 1)

    def unpack(self, codes: StoredCodes, out: Address) -> Launch:
        numbers = (self.depth, self.chunk, self.ch, self.group, self.form.value, *(self.tiled or (0, 0)))
        order = "HALVES" if self.packed else "TILES" if self.tiled else "MATRIX"
        return _unpack(order, codes, out, self.bytes, numbers)


@dataclass(frozen=True)
class DirectLayout:
    """[tap][input channel of a group][pitch of the output channels]."""

    taps: int
    inputs: int
    pitch: int
    form: WeightForm

    @property
    def bytes(self) -> int:
        return self.taps * self.inputs * self.pitch

    def unpack(self, codes: StoredCodes, out: Address) -> Launch:
        return _unpack("DIRECT", codes, out, self.bytes, (self.pitch, 1, 1, 1, self.form.value, 0, 0))


def _unpack(order: str, codes: StoredCodes, out: Address, size: int, numbers: tuple[int, ...]) -> Launch:
    outputs, inputs, height, width = codes.shape
    recipe = (size, codes.bits, codes.offset, codes.step, outputs, inputs, height * width)
    function = Function(f"unpack<{order}>", "UnpackArgs", THREADS)
    return Launch(function, blocks_of(size), (codes.address, out), (*recipe, *numbers))
