"""What the kernels ask of an instruction set: one entry each, in `x86`, `arm` and `portable`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from aqd_deploy.kernels.contract.kernel import Peak
from aqd_deploy.kernels.cpu.emit import Expr
from aqd_deploy.kernels.cpu.isa.dot_product import DotProduct
from aqd_deploy.kernels.cpu.isa.peak import peak
from aqd_deploy.targets.isa import Isa


class ByteTable(ABC):
    """Tables of 256 bytes in vector registers of `words` int32. `lanes`: the vectors of indices that it
    takes, the largest first; others are looked up lane by lane.
    """

    words: ClassVar[int]
    lanes: ClassVar[tuple[int, ...]]

    @abstractmethod
    def looked_up(self, table: Sequence[Expr], index: Expr, dtype: str) -> Expr:
        """table[i & 255] of each int32 i of a vector, as int32; `table` is registers that hold 256 codes of
        `dtype` in order.
        """


class Packing(ABC):
    """Vectors of int32 narrowed to bytes, `lanes` at a time."""

    lanes: ClassVar[int]

    @abstractmethod
    def packed(self, codes: Expr, dtype: str) -> Expr:
        """int32 [lanes] clipped to the range of the byte type `dtype`."""


@dataclass(frozen=True)
class InstructionSet:
    """`products`: dot products in the order in which they are preferred, the last exact for operands of any
    range. `tiles`: those that register tiles prefer to them, which may take several pixels. `bytes`: the one
    that adds in 8 bits. `winograd_bytes` and `winograd_words`: those that multiply transformed operands of 8
    and of 16 bits (sums of the latter wrap).

    `products_of` a line of assembly: the multiply-accumulates of its instruction, 0 where it does not
    multiply vectors. `depthwise_lanes`: 32-bit lanes of a vector of channels. `wide_products_by_shuffle`:
    products of 64 bits take their lanes apart by shuffles; otherwise a vector of int32 read as int64 has its
    even lanes in the lower halves, which is what a widening multiplication takes. `source`: where the
    throughput behind `product_cycles` is from. `tile_registers`: there are products of whole tiles.
    `byte_table`: how registers hold a table of 256 bytes, None where a table is better read in memory.
    `gather`: the words at an address, int32, by a vector of indices of `depthwise_lanes`; None where lanes
    are better loaded one by one. `word_pairs`: the product of two words a lane by which one is multiplied
    faster than lanes of 32 bits, None where there is none. `packing`: how neighbouring vectors of codes
    become bytes together, None where each does on its own.
    """

    tile_registers: ClassVar[bool] = False

    isa: Isa
    source: str
    products: tuple[DotProduct, ...]
    products_of: Callable[[str], int]
    depthwise_lanes: int
    wide_products_by_shuffle: bool
    tiles: tuple[DotProduct, ...] = ()
    bytes: DotProduct | None = None
    winograd_bytes: DotProduct | None = None
    winograd_words: DotProduct | None = None
    byte_table: ByteTable | None = None
    gather: Callable[[Expr, Expr], Expr] | None = None
    word_pairs: DotProduct | None = None
    packing: Packing | None = None

    @property
    def peaks(self) -> tuple[DotProduct, ...]:
        """The products whose peak is worth measuring: the one for any operands, then faster ones."""
        *preferred, general = self.products
        return (general, *preferred, *self.tiles[:1])

    def peak_functions(self, threads: int, steps: int) -> list[Peak]:
        """What `Backend.peaks` gives; a set whose product is of another kind has its own."""
        return [peak(dots, threads, steps) for dots in self.peaks]
