"""How weights lie in a card's memory (`native/unpack.cuh`)."""

from __future__ import annotations

from dataclasses import dataclass

from aqd_deploy.kernels.contract.launches import Address, Function, Launch, StoredCodes

THREADS = 256


def blocks_of(count: int) -> int:
    """Blocks of `THREADS` threads for `count` threads."""
    return -(-count // THREADS)


@dataclass(frozen=True)
class MatrixLayout:
    """[columns][depth]: depth in chunks of `chunk` channels, columns permuted in groups of `group` so that a
    thread has `ch` neighbours. `doubled`: weights w are written as 2·w + 1. `tiled`: columns of a tile and
    bytes of a step where each step of a tile lies in one piece.
    """

    columns: int
    depth: int
    chunk: int
    ch: int
    group: int
    doubled: bool
    tiled: tuple[int, int] | None = None

    @property
    def bytes(self) -> int:
        return self.columns * self.depth

    def unpack(self, codes: StoredCodes, out: Address) -> Launch:
        order = (self.depth, self.chunk, self.ch, self.group, int(self.doubled), *(self.tiled or (0, 0)))
        return _unpack("TILES" if self.tiled else "MATRIX", codes, out, self.bytes, order)


@dataclass(frozen=True)
class DirectLayout:
    """[tap][input channel of a group][pitch of the output channels]."""

    taps: int
    inputs: int
    pitch: int
    doubled: bool

    @property
    def bytes(self) -> int:
        return self.taps * self.inputs * self.pitch

    def unpack(self, codes: StoredCodes, out: Address) -> Launch:
        return _unpack("DIRECT", codes, out, self.bytes, (self.pitch, 1, 1, 1, int(self.doubled), 0, 0))


def _unpack(order: str, codes: StoredCodes, out: Address, size: int, numbers: tuple[int, ...]) -> Launch:
    outputs, inputs, height, width = codes.shape
    recipe = (size, codes.bits, codes.offset, codes.step, outputs, inputs, height * width)
    function = Function(f"unpack<{order}>", "UnpackArgs", THREADS)
    return Launch(function, blocks_of(size), (codes.address, out), (*recipe, *numbers))
