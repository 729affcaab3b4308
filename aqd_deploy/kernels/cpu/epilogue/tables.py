"""Functions that are tables, in vectors. A lane loads its own value, but for tables of bytes where registers
can hold them.
"""

from __future__ import annotations

from tvm import tirx

from aqd_deploy.kernels.contract.cells import FIRST, HIGH, LOW, SHIFT
from aqd_deploy.kernels.contract.spec import Lookup, Pieces, Steps
from aqd_deploy.kernels.cpu.emit import Buffer, Emitter, Expr, broadcast, const, convert, load
from aqd_deploy.kernels.cpu.epilogue import fixed_point
from aqd_deploy.kernels.cpu.isa.instruction_set import InstructionSet

CODES = 256
WORDS = CODES // 4


def declare_lookup(em: Emitter, stage: Lookup) -> list[Buffer]:
    """The table of a `Lookup` as words, which is the parameter, and as bytes."""
    words = em.parameter("table", (WORDS,), "int32")
    return [words, em.as_bytes(words, stage.dtype)]


def looked_up(
    em: Emitter, entry: InstructionSet, stage: Lookup, tables: list[Buffer], value: Expr, lanes: int
) -> Expr:
    """table[value & 255] as int32."""
    words, codes = tables
    permute = entry.byte_table
    if permute is not None and lanes in permute.lanes:
        held = range(0, WORDS, permute.words)
        registers = [em.hold("table", load(words, const(i), permute.words)) for i in held]
        return permute.looked_up(registers, value, stage.dtype)
    index = tirx.bitwise_and(value, const(CODES - 1, "int32", lanes))
    return convert(_each(codes, em.bind("index", index)), "int32", lanes)


def declare_steps(em: Emitter, stage: Steps) -> list[Buffer]:
    """The parameters of a `Steps`."""
    sizes = {"header": 4, "thresholds": stage.cells * stage.most, "codes": stage.cells * (stage.most + 1)}
    return [em.parameter(name, (size,), "int32") for name, size in sizes.items()]


def stepped(
    em: Emitter, entry: InstructionSet, stage: Steps, params: list[Buffer], value: Expr, lanes: int
) -> Expr:
    """The code of each lane, by the cell that it lies in."""
    header, thresholds, codes = params

    def each(buffer: Buffer, index: Expr) -> Expr:
        index = em.bind("index", index)
        if entry.gather is not None and lanes == entry.depthwise_lanes:
            first = tirx.address_of(tirx.BufferLoad(buffer, [const(0)]))
            return em.bind("gathered", entry.gather(first, index))
        return _each(buffer, index)

    def word(index: int) -> Expr:
        return broadcast(em.hold("word", load(header, const(index))), lanes)

    value = em.bind("clipped", tirx.Min(tirx.Max(value, word(LOW)), word(HIGH)))
    cell = em.bind("cell", tirx.shift_right(value, word(SHIFT)) - word(FIRST))
    reached = cell * const(stage.most + 1, "int32", lanes)
    for k in range(stage.most):
        at = cell * const(stage.most, "int32", lanes) + const(k, "int32", lanes)
        further = value >= each(thresholds, at)
        one, none = (const(count, "int32", lanes) for count in (1, 0))
        reached = em.bind("reached", reached + tirx.Select(further, one, none))
    return each(codes, reached)


def declare_pieces(em: Emitter, stage: Pieces) -> list[Buffer]:
    """The parameters of a `Pieces`."""
    thresholds = em.parameter("T", ((1 << stage.bits) - 1,), "int32")
    constants = (("c", "int32"), ("B", "int64"), ("d", "int32"))
    return [thresholds, *(em.parameter(name, (stage.count,), dtype) for name, dtype in constants)]


def of_its_piece(em: Emitter, stage: Pieces, params: list[Buffer], value: Expr, lanes: int) -> Expr:
    """The multiply-shift of each lane's piece, which a binary search finds.

    The place that it has reached lies in memory, which LLVM makes a register of: TVM's passes write names out
    where they bound an index, and each comparison would have those before it twice in it.
    """

    def number(value: int) -> Expr:
        return const(value, "int32", lanes)

    reached = em.alloc("reached", "int32", lanes, "local")
    em.store(reached, const(0), number(0), lanes)
    for bit in reversed(range(stage.bits)):
        piece = em.bind("piece", load(reached, const(0), lanes))
        at = em.bind("index", piece + number((1 << bit) - 1))
        further = value >= _each(params[0], at)
        em.store(reached, const(0), piece + tirx.Select(further, number(1 << bit), number(0)), lanes)
    piece = em.bind("piece", load(reached, const(0), lanes))
    # The largest int32 reaches those behind the last one.
    piece = em.bind("piece", tirx.Min(piece, number(stage.count - 1)))
    factor, addend, shift = (_each(buffer, piece) for buffer in params[1:])
    total = fixed_point.product_shift(value, convert(factor, "int64", lanes), addend, shift, lanes)
    return convert(total, "int32", lanes)


def _each(buffer: Buffer, index: Expr) -> Expr:
    return tirx.BufferLoad(buffer, [index])
