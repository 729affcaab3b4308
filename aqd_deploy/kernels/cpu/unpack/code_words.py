"""Reads a bit stream of weight codes as vectors: in every lane a word of neighbouring codes, one a field."""

from __future__ import annotations

from math import gcd

from tvm import tirx

from aqd_deploy.kernels.cpu.emit import Buffer, Emitter, Expr, const, convert, load, vector
from aqd_deploy.kernels.storage.layout import blob_size


class CodeWords:
    """Words of `dot` codes in fields of `field` bits (8 or 16), one word in each of `lanes` lanes.

    The codes lie in `blob`, a stream of `count` codes of `bits` bits (`layout.pack_codes`); nothing behind it
    is read. `multiple` divides every index that a word begins at.
    """

    def __init__(
        self,
        em: Emitter,
        blob: Buffer,
        count: int,
        bits: int,
        *,
        lanes: int,
        dot: int,
        field: int,
        multiple: int,
    ) -> None:
        self.em, self.blob, self.bits = em, blob, bits
        self.lanes, self.dot, self.field = lanes, dot, field
        self.dtype = f"uint{dot * field}"
        self._size = blob_size(count, bits)
        # Bits of the first byte that a word may begin behind.
        shifted = 8 - gcd(8, multiple * bits)
        self._bytes = 1 << (-(-(dot * bits + shifted) // 8) - 1).bit_length()

    def scratch(self, name: str, words: int) -> Buffer:
        """Memory for `words` vectors of words, which are put there lane by lane."""
        return self.em.alloc(name, self.dtype, words * self.lanes)

    def window(self, index: Expr) -> Expr:
        """The word whose first code is `index`, its codes side by side from bit 0 on, below anything else."""
        bit = self.em.bind("bit", index * self.bits)
        if self._size < self._bytes:
            return self._short_window(bit)
        wide = f"uint{8 * self._bytes}"
        byte = self.em.bind("byte", tirx.Min(bit // 8, const(self._size - self._bytes)))
        loaded = load(self.blob, byte, self._bytes)
        value = loaded if self._bytes == 1 else tirx.reinterpret(wide, loaded)
        return convert(tirx.shift_right(value, convert(bit - byte * 8, wide)), self.dtype)

    def _short_window(self, bit: Expr) -> Expr:
        """A window of a stream that is shorter than a load."""
        value = const(0, "uint64")
        for at in range(self._size):
            byte = convert(load(self.blob, const(at)), "uint64")
            value = value + tirx.shift_left(byte, const(8 * at, "uint64"))
        return convert(tirx.shift_right(value, convert(bit, "uint64")), self.dtype)

    def read(self, scratch: Buffer, at: int) -> Expr:
        """The vector of windows `at` in `scratch`, every code moved to its field."""
        value = load(scratch, const(at * self.lanes), self.lanes)
        value = tirx.bitwise_and(value, self._constant((1 << self.dot * self.bits) - 1))
        width = self.dot // 2
        while width and self.field > self.bits:
            # What lies together is halved, and the upper half moved up, until every code is alone.
            moved = tirx.shift_left(value, self._constant(width * (self.field - self.bits)))
            lower = sum(((1 << width * self.bits) - 1) << at for at in self._places(2 * width))
            upper = self._constant(lower << width * self.field)
            both = tirx.bitwise_or(
                tirx.bitwise_and(value, self._constant(lower)), tirx.bitwise_and(moved, upper)
            )
            value = self.em.bind("spread", both)
            width //= 2
        return self.em.bind("codes", value)

    def _places(self, every: int) -> range:
        """The first bits of every `every`-th field."""
        return range(0, self.dot * self.field, every * self.field)

    def ones(self, count: int, lanes: int = 1) -> Expr:
        """A word that is all ones in its first `count` fields, else zero."""
        return const((1 << count * self.field) - 1, self.dtype, lanes)

    def totals(self, words: Expr) -> Expr:
        """The sum of each word's fields, int32 [lanes]."""
        wide = f"uint{max(32, self.dot * self.field)}"
        value = self.em.bind("wide", convert(words, wide, self.lanes))
        mask = const((1 << self.field) - 1, wide, self.lanes)
        total = const(0, wide, self.lanes)
        for at in range(self.dot):
            moved = tirx.shift_right(value, const(at * self.field, wide, self.lanes))
            total = total + tirx.bitwise_and(moved, mask)
        return convert(total, "int32", self.lanes)

    def fields(self, words: Expr) -> Expr:
        """Words as the vector of their fields, uint8 or uint16 [lanes · dot]."""
        dtype = vector(f"uint{self.field}", self.lanes * self.dot)
        return words if self.dot == 1 else tirx.reinterpret(dtype, words)

    def _constant(self, value: int) -> Expr:
        return const(value, self.dtype, self.lanes)
