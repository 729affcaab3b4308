"""A small writer of TIR functions: statements are appended in program order, loops and branches are `with`
blocks.

TVMScript reads source files for every parsed function and takes seconds for a graph; building the nodes
directly takes milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import numpy as np
from tvm import tirx
from tvm.ir import PointerType, PrimType, StringImm
from tvm.tirx import ForKind
from tvm_ffi import structural_equal

from aqd_deploy.kernels.contract.function import DATA_SYMBOL, HUGE_PAGES_SYMBOL, SCRATCH

Expr = Any
Buffer = Any


def vector(dtype: str, lanes: int) -> str:
    """Name of a vector type: vector("int32", 16) is "int32x16"; one lane is the scalar type."""
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def const(value: int, dtype: str = "int32", lanes: int = 1) -> Expr:
    """An integer constant with its type stated, broadcast to `lanes`."""
    scalar = tirx.IntImm(dtype, value)
    return scalar if lanes == 1 else tirx.Broadcast(scalar, lanes)


def broadcast(value: Expr, lanes: int) -> Expr:
    """The scalar `value` in every lane."""
    return value if lanes == 1 else tirx.Broadcast(value, lanes)


def span(base: Expr, lanes: int) -> Expr:
    """Indices base … base + lanes − 1."""
    return base if lanes == 1 else tirx.Ramp(base, const(1), lanes)


def convert(value: Expr, dtype: str, lanes: int = 1) -> Expr:
    """`value` cast to `dtype`, lane by lane."""
    return tirx.Cast(vector(dtype, lanes), value)


def load(buffer: Buffer, index: Expr, lanes: int = 1) -> Expr:
    """`lanes` neighbours of a flat buffer, from `index` on."""
    return tirx.BufferLoad(buffer, [span(index, lanes)])


def lane_sum(value: Expr, lanes: int) -> Expr:
    """Sum of the lanes of an int32 vector."""
    return tirx.call_llvm_intrin("int32", f"llvm.vector.reduce.add.v{lanes}i32", value)


def as_index(value: int | Expr) -> Expr:
    """Python integers become int32 constants."""
    return const(value) if isinstance(value, int) else value


class Emitter:
    """Collects the body of one PrimFunc."""

    def __init__(self) -> None:
        self._scopes: list[list[Any]] = [[]]
        self._names: dict[str, int] = {}
        self.params: list[Buffer] = []
        self._scratch = 0
        # What is held, (value, variable), and the statements before the loops.
        self._held: tuple[list[tuple[Any, Any]], list[Any]] | None = None

    def _unique(self, name: str) -> str:
        count = self._names.get(name, 0)
        self._names[name] = count + 1
        return name if count == 0 else f"{name}_{count}"

    def parameter(self, name: str, shape: Sequence[int], dtype: str) -> Buffer:
        """Adds a parameter of the function; returns a flat view of it (index arithmetic is the kernel's
        own).
        """
        unique = self._unique(name)
        offset = tirx.Var(unique + "_offset", "int32")
        extents = tuple(int(n) for n in shape)
        declared = tirx.decl_buffer(extents, dtype, unique, elem_offset=offset, offset_factor=1)
        self.params.append(declared)
        # The tensor may lie anywhere in a larger allocation: its first element's address is taken once.
        first = tirx.address_of(tirx.BufferLoad(declared, [const(0)] * len(extents)))
        data = tirx.Var(unique + "_data", PointerType(PrimType(dtype)))
        self._scopes[-1].append(tirx.Bind(data, first))
        flat = tirx.decl_buffer((prod(extents),), dtype, unique + "_flat", data=data)
        self._scopes[-1].append(tirx.DeclBuffer(flat, data=data))
        return flat

    def as_bytes(self, buffer: Buffer, dtype: str) -> Buffer:
        """A flat view of the bytes of an int32 buffer, as int8 or uint8."""
        unique = self._unique("bytes")
        pointer = PointerType(PrimType(dtype))
        data = tirx.Var(unique + "_data", pointer)
        first = tirx.address_of(tirx.BufferLoad(buffer, [const(0)]))
        self._scopes[-1].append(tirx.Bind(data, tirx.call_intrin(pointer, "tirx.reinterpret", first)))
        flat = tirx.decl_buffer((buffer.shape[0] * 4,), dtype, unique, data=data)
        self._scopes[-1].append(tirx.DeclBuffer(flat, data=data))
        return flat

    def stored(self, name: str, shape: Sequence[int], dtype: str) -> Buffer:
        """A flat view of an array in the program's data; the function's next parameter is the byte, int64, at
        which it begins there.
        """
        unique = self._unique(name)
        at = tirx.Var(unique + "_at", "int64")
        self.params.append(at)
        pointer = PointerType(PrimType(dtype))
        data = tirx.Var(unique + "_data", pointer)
        self._scopes[-1].append(tirx.Bind(data, tirx.call_extern(pointer, DATA_SYMBOL, at)))
        flat = tirx.decl_buffer((prod(int(n) for n in shape),), dtype, unique, data=data)
        self._scopes[-1].append(tirx.DeclBuffer(flat, data=data))
        return flat

    def prefer_huge_pages(self, buffer: Buffer, size: int) -> None:
        """Ask for large pages for `size` bytes that no one has touched yet."""
        first = tirx.address_of(tirx.BufferLoad(buffer, [const(0)]))
        call = tirx.call_extern("int32", HUGE_PAGES_SYMBOL, first, const(size, "int64"))
        self._scopes[-1].append(tirx.Evaluate(call))

    def alloc(self, name: str, dtype: str, size: int, scope: str = "global") -> Buffer:
        """A flat buffer that lives until the current block ends; scope "local" is meant for registers."""
        buffer = tirx.decl_buffer((size,), dtype, self._unique(name), scope=scope)
        if scope != "local":
            self._scratch += size * np.dtype(dtype).itemsize
        # Left alone by the lowering of allocations, a small buffer becomes registers; as a piece of workspace
        # it would be written back in every step of a loop that has any other side effect.
        keep = {"disable_lower_builtin": tirx.IntImm("bool", 1)} if scope == "local" else {}
        self._scopes[-1].append(tirx.AllocBuffer(buffer, keep))
        return buffer

    def bind(self, name: str, value: Expr) -> Expr:
        """Gives a value a name that is computed once."""
        variable = tirx.Var(self._unique(name), value.ty)
        self._scopes[-1].append(tirx.Bind(variable, value))
        return variable

    @contextmanager
    def holding(self) -> Iterator[None]:
        """A block before which `hold` computes what the loops in it ask for."""
        outer, self._held = self._held, ([], self._scopes[-1])
        yield
        self._held = outer

    def hold(self, name: str, value: Expr) -> Expr:
        """A value that loops in `holding` do not change, named and computed once before them; itself where
        nothing is held. It looks only at what was named before `holding`, or is held.
        """
        if self._held is None:
            return value
        known, scope = self._held
        for other, variable in known:
            if structural_equal(other, value):
                return variable
        variable = tirx.Var(self._unique(name), value.ty)
        scope.append(tirx.Bind(variable, value))
        known.append((value, variable))
        return variable

    def bind_held(self, name: str, value: Expr) -> Expr:
        """`hold`, or `bind` where nothing is held."""
        return self.bind(name, value) if self._held is None else self.hold(name, value)

    def store(self, buffer: Buffer, index: Expr, value: Expr, lanes: int = 1) -> None:
        """buffer[index : index + lanes] = value."""
        self._scopes[-1].append(tirx.BufferStore(buffer, value, [span(as_index(index), lanes)]))

    def evaluate(self, call: Expr) -> None:
        """A call for what it does, not for its value."""
        self._scopes[-1].append(tirx.Evaluate(call))

    def fail_when(self, condition: Expr, message: str) -> None:
        """Ends the function with a RuntimeError of TVM where `condition` holds; only outside its loops. TIR's
        own assertions are off, those on arguments with them (`PASS_CONFIG`).
        """
        with self.when(condition):
            texts = [StringImm("RuntimeError"), StringImm(message)]
            self.evaluate(tirx.call_extern("void", "TVMFFIErrorSetRaisedFromCStr", *texts))
            self.evaluate(tirx.call_intrin("handle", "tirx.tvm_throw_last_error"))

    def prefetch(self, buffer: Buffer, index: Expr, level: int, write: bool = False) -> None:
        """Brings the cache line of buffer[index], which may lie behind the buffer, to the cache `level`."""
        address = tirx.address_of(tirx.BufferLoad(buffer, [index]))
        access, locality, data = const(int(write)), const(4 - level), const(1)
        self.evaluate(tirx.call_llvm_intrin("void", "llvm.prefetch.p0", address, access, locality, data))

    def _close(self) -> Any:
        statements = self._scopes.pop()
        if not statements:
            return tirx.Evaluate(const(0))
        return statements[0] if len(statements) == 1 else tirx.SeqStmt(statements)

    @contextmanager
    def loop(self, name: str, extent: int | Expr, kind: str = "serial") -> Iterator[Expr]:
        """A loop from 0; `kind` is serial, parallel, unrolled or vectorized. A constant extent of 1 is no
        loop.
        """
        if isinstance(extent, int) and extent == 1:
            yield const(0)
            return
        variable = tirx.Var(self._unique(name), "int32")
        self._scopes.append([])
        yield variable
        body = self._close()
        self._scopes[-1].append(
            tirx.For(variable, const(0), as_index(extent), getattr(ForKind, kind.upper()), body)
        )

    @contextmanager
    def when(self, condition: Expr) -> Iterator[None]:
        """A branch without an else."""
        self._scopes.append([])
        yield
        body = self._close()
        self._scopes[-1].append(tirx.IfThenElse(condition, body, None))

    @contextmanager
    def always(self) -> Iterator[None]:
        """The block of a branch that is known to be taken."""
        yield

    def finish(self) -> Any:
        """The PrimFunc, without a global symbol; parameters do not alias. Its attribute `SCRATCH` is the
        most that its buffers in memory take, in bytes a thread.
        """
        function = tirx.PrimFunc(self.params, self._close()).with_attr("tirx.noalias", True)
        return function.with_attr(SCRATCH, self._scratch)


class Wrapping:
    """A vector of int32 whose sums wrap: TIR's must not overflow. Written in 64 bits and cut, which becomes
    one addition.
    """

    def __init__(self, value: Expr, lanes: int) -> None:
        self.value, self.lanes = value, lanes

    def _wide(self) -> Expr:
        return convert(self.value, "int64", self.lanes)

    def _cut(self, value: Expr) -> Wrapping:
        return Wrapping(convert(value, "int32", self.lanes), self.lanes)

    def __add__(self, other: Wrapping) -> Wrapping:
        return self._cut(self._wide() + other._wide())

    def __sub__(self, other: Wrapping) -> Wrapping:
        return self._cut(self._wide() - other._wide())

    def __mul__(self, factor: int) -> Wrapping:
        return self._cut(self._wide() * const(factor, "int64", self.lanes))
