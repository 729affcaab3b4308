"""Emits `prepare`, what a program does once when it is loaded: weights and constants are expanded from the
program's data (`program_data`) into memory.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from itertools import accumulate
from math import prod
from typing import Any

import numpy as np
from tvm import relax, tirx

from aqd_deploy.compiler.constants import ConstantPool
from aqd_deploy.compiler.program_data import ProgramData
from aqd_deploy.compiler.weights import EncodedWeight
from aqd_deploy.kernels.contract.backend import Backend
from aqd_deploy.kernels.contract.kernel import Layout
from aqd_deploy.kernels.storage.rice_codes import RiceCodes

# As of all memory that kernels see.
_ALIGNMENT = 64
# Smaller memory holds no large page.
_LARGE_PAGE = 2 << 20


class PrepareEmitter:
    """Emits into the open function of `block` calls of kernels of `backend`; what is expanded is put into
    `data`.

    `function(key, make, label)` gives the function of the module with that key, made where there is none yet.
    Tensors that only live here are at least `arena_bytes` large: `main` takes such memory again.
    """

    def __init__(
        self,
        block: relax.BlockBuilder,
        backend: Backend,
        data: ProgramData,
        function: Callable[[Hashable, Callable[[], Any], str], Any],
        arena_bytes: int,
    ) -> None:
        self.block, self.backend, self.data = block, backend, data
        self.function, self.arena_bytes = function, arena_bytes

    def large_pages(self, sizes: Sequence[int]) -> None:
        """Memory that `main` will take, of `sizes` bytes each, in large pages: megabytes are passed over with
        strides of kilobytes, each of which would need an address translation of its own.
        """
        for size in sizes:
            if size >= _LARGE_PAGE:
                self._large_pages(emit_storage(self.block, size), size)

    def weights(self, prepared: Sequence[tuple[Any, EncodedWeight, Layout]]) -> list[Any]:
        """The expanded weights of (variable, weight, layout), one behind the other in memory: a few large
        pages instead of thousands of small ones.
        """
        sizes = [prod(int(n) for n in variable.ty.shape.values) for variable, _, _ in prepared]
        *starts, total = accumulate((-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes), initial=0)
        if not total:
            return []
        storage = emit_storage(self.block, total)
        self._large_pages(storage, total)
        return [
            self._weight(
                weight, layout, emit_view(self.block, storage, start, variable.ty.shape.values, "int8")
            )
            for start, (variable, weight, layout) in zip(starts, prepared, strict=True)
        ]

    def _large_pages(self, storage: Any, size: int) -> None:
        """For memory of `size` bytes that is new."""
        make = partial(self.backend.huge_pages, size)
        function = self.function(("huge pages", size), make, "huge_pages")
        self._call(function, emit_view(self.block, storage, 0, (size,), "uint8"))

    def _weight(self, weight: EncodedWeight, layout: Layout, expanded: Any) -> Any:
        if weight.rice is None:
            bits, blob, stored = weight.bits, self._stored(weight.stream), True
        else:
            bits, blob, stored = 8, self._codes(weight.rice), False
        recipe = (weight.shape, bits, weight.offset, weight.step, layout, stored)
        make = partial(self.backend.unpack_weights, *recipe)
        self._call(self.function(("unpack", recipe), make, "unpack"), blob, expanded)
        return expanded

    def _codes(self, stored: RiceCodes) -> Any:
        """The codes, uint8 [count]."""
        storage = emit_storage(self.block, max(stored.count, self.arena_bytes))
        result = emit_view(self.block, storage, 0, (stored.count,), "uint8")
        recipe = (stored.count, stored.words.size, stored.centre, stored.shift, True)
        function = self.function(("rice", recipe), partial(self.backend.expand_rice_codes, *recipe), "expand")
        self._call(function, self._stored(stored.words), self._stored(stored.starts), result)
        return result

    def constants(
        self, pools: Mapping[str, ConstantPool], keys: Sequence[tuple[str, int, tuple[int, ...]]]
    ) -> list[Any]:
        """The constants (dtype, index in the pool, shape) of `keys`."""
        storages = {dtype: self._pool(pool) for dtype, pool in pools.items()}
        return [
            emit_view(self.block, storages[dtype], start * np.dtype(dtype).itemsize, shape, dtype)
            for dtype, start, shape in keys
        ]

    def _pool(self, pool: ConstantPool) -> Any:
        """The storage that holds the values of `pool`."""
        frames, dtype = pool.frames(), str(pool.dtype)
        storage = emit_storage(self.block, pool.size * pool.dtype.itemsize)
        recipe = (frames.bases.size, frames.planes.size, dtype, True)
        function = self.function(
            ("expand", recipe), partial(self.backend.expand_constants, *recipe), "expand"
        )
        arrays = [self._stored(array) for array in (frames.bases, frames.widths, frames.planes)]
        self._call(function, *arrays, emit_view(self.block, storage, 0, (pool.size,), dtype))
        return storage

    def _stored(self, array: np.ndarray) -> Any:
        """Where `array` lies in the program's data, as an argument."""
        return relax.prim_value(tirx.IntImm("int64", self.data.add(array)))

    def _call(self, function: Any, *arguments: Any) -> None:
        self.block.emit(relax.Call(function, list(arguments)))


def emit_storage(block: relax.BlockBuilder, size: int) -> Any:
    """Memory of `size` bytes."""
    return block.emit(relax.op.memory.alloc_storage(relax.ShapeExpr([size]), 0, "global", "uint8"))


def emit_view(block: relax.BlockBuilder, storage: Any, offset: int, shape: Sequence[int], dtype: str) -> Any:
    """A tensor in `storage`, `offset` bytes from its beginning."""
    return block.emit(relax.op.memory.alloc_tensor(storage, offset, relax.ShapeExpr(shape), dtype))
