"""The instructions of AMX's eight tile registers, each of 16 rows of 64 bytes.

A product takes 16 pixels × 64 samples and 64 samples × 16 output channels; its int32 sums are 16 × 16. The
weights of 16 steps of one block (`WeightLayout`, 16 lanes, 4 inputs) are such a tile as they lie.
"""

from __future__ import annotations

from tvm import tirx

from aqd_deploy.kernels.cpu.emit import Buffer, Emitter, Expr, const
from aqd_deploy.targets import amx

# Rows of a tile: pixels of samples and sums, fours of inputs of weights.
ROWS = 16
# Bytes of a row: samples of a pixel, sums of 16 output channels.
ROW_BYTES = 64
TILE_BYTES = ROWS * ROW_BYTES
# int32 values of a tile of sums.
SUMS = ROWS * 16
REGISTERS = 8
REFUSED = (
    f"the kernel does not let this process use AMX; valid: a program compiled with --target {amx.INSTEAD}"
)


def _address(buffer: Buffer, index: Expr) -> Expr:
    return tirx.address_of(tirx.BufferLoad(buffer, [index]))


class TileUnit:
    """Writes the instructions; `signed`: samples are int8; `near`: weights stay in the first-level cache."""

    def __init__(self, em: Emitter, signed: bool, near: bool) -> None:
        self.em, self.signed, self.near = em, signed, near

    def ask(self) -> None:
        """What a function does first, outside its tasks: the process may be of somebody who does not know
        that it runs tiles (a server of TVM's, an application of C++), and asking costs a fraction of a µs.
        """
        numbers = [tirx.IntImm("int64", number) for number in amx.REQUEST]
        answer = tirx.call_extern("int64", "syscall", *numbers)
        self.em.fail_when(answer != tirx.IntImm("int64", 0), REFUSED)

    def configure(self) -> None:
        """What a thread does before its first tile instruction: eight full tiles."""
        em = self.em
        table = em.alloc("tile_shapes", "int32", 16)
        em.store(table, 0, const(0, "int32", 16), 16)
        # Palette 1; 16-bit row sizes from byte 16 on, counts of rows from byte 48 on.
        em.store(table, 0, const(1))
        em.store(table, 4, const(ROW_BYTES << 16 | ROW_BYTES, "int32", 4), 4)
        em.store(table, 12, const(0x01010101 * ROWS, "int32", 2), 2)
        self._do("ldtilecfg", _address(table, const(0)))

    def release(self) -> None:
        """What a thread does after its last one."""
        self._do("tilerelease")

    def clear(self, tile: int) -> None:
        """All sums 0."""
        self._do("tilezero", tirx.IntImm("int8", tile))

    def load(self, tile: int, buffer: Buffer, at: Expr, stride: int) -> None:
        """Sixteen pixels of 64 samples each, `stride` bytes from one to the next."""
        self._do("tileloadd64", tirx.IntImm("int8", tile), _address(buffer, at), tirx.IntImm("int64", stride))

    def load_weights(self, tile: int, buffer: Buffer, at: Expr) -> None:
        """A tile of weights. The hint keeps those that come from afar from pushing samples out of the
        first-level cache.
        """
        stride = tirx.IntImm("int64", ROW_BYTES)
        self._do(
            "tileloadd64" if self.near else "tileloaddt164",
            tirx.IntImm("int8", tile),
            _address(buffer, at),
            stride,
        )

    def multiply(self, sums: int, samples: int, weights: int) -> None:
        """sums += samples · weights."""
        name = "tdpbssd" if self.signed else "tdpbusd"
        self._do(name, *(tirx.IntImm("int8", tile) for tile in (sums, samples, weights)))

    def store(self, tile: int, buffer: Buffer, at: int | Expr, pitch: int = ROW_BYTES // 4) -> None:
        """The sums of a tile to int32 `buffer`, row by row, `pitch` values from one to the next."""
        index = const(at) if isinstance(at, int) else at
        stride = tirx.IntImm("int64", 4 * pitch)
        self._do("tilestored64", tirx.IntImm("int8", tile), _address(buffer, index), stride)

    def _do(self, name: str, *operands: Expr) -> None:
        self.em.evaluate(tirx.call_llvm_intrin("void", f"llvm.x86.{name}", *operands))
