"""An epilogue as a chain of C++ types (`native/epilogue.cuh`), and its constants as the chain reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import assert_never

import numpy as np

from aqd_deploy.errors import ShapeError
from aqd_deploy.integer.types import is_signed
from aqd_deploy.kernels.contract.launches import Address, Border, Buffer, Room
from aqd_deploy.kernels.contract.scaling import Constants
from aqd_deploy.kernels.contract.spec import (
    AddBias,
    Bound,
    Epilogue,
    Lookup,
    Multiply,
    MultiplyShift,
    Pieces,
    Relu,
    Requantize,
    RequantizeMax,
    SkipAdd,
    SkipAddCodes,
    Stage,
    Steps,
    Store,
    StoreBorder,
    StoreCodes,
    StoreRequantize,
    StoreStream,
    StoreThreshold,
    StreamMultiply,
    Threshold,
)

C_TYPES = {"uint8": "uint8_t", "int8": "int8_t", "int32": "int"}
_INT32 = np.iinfo(np.int32)
_BLOCK = 64


@dataclass(frozen=True)
class Chain:
    """`code`: the C++ type; `tensors`: addresses that it takes; `reads`: the first of them, tables that the
    program stores, None for each tensor of the network; `words`: its constants, int32 [levels, blocks of 64
    channels, words, 64]; `codes_only`: it reads and writes nothing but bytes; `borders`: it writes one tensor
    a map; `moved`: bytes of memory a value.
    """

    code: str
    tensors: int
    reads: tuple[np.ndarray | None, ...]
    words: np.ndarray
    codes_only: bool
    borders: bool
    moved: float

    @property
    def adds(self) -> bool:
        """Whether it reads other tensors of the network."""
        return any(table is None for table in self.reads)

    def addresses(self, others: Sequence[Buffer], outputs: Sequence[Buffer], room: Room) -> list[Address]:
        """What it takes: `others` are the tensors of the network that it reads."""
        given = iter(others)
        read = [next(given).address if table is None else room.store(table) for table in self.reads]
        return [*read, *(each.address for each in outputs)]


def chain_of(
    epilogue: Epilogue,
    constants: Sequence[np.ndarray],
    levels: int,
    maps: int,
    border: Border | None = None,
) -> Chain:
    """The chain of `epilogue`, whose arrays have a row a level, [levels·C], behind what `border` adds; a
    `StoreBorder` has `maps` outputs.
    """
    writer = _Writer(iter(constants))
    if border is not None:
        writer.types.append(f"AddBorder<{', '.join(map(str, border.edges))}>")
        writer.words += [*border.sums]
    for stage in epilogue.stages:
        writer.stage(stage)
    for store in epilogue.stores:
        writer.store(store, maps)
    borders = any(isinstance(store, StoreBorder) for store in epilogue.stores)
    tensors = len(writer.reads) + sum(maps if isinstance(s, StoreBorder) else 1 for s in epilogue.stores)
    code = f"Chain<{', '.join(writer.types)}>"
    words = _packed(writer.words, levels)
    return Chain(code, tensors, tuple(writer.reads), words, not writer.streams, borders, writer.moved)


class _Writer:
    """Goes through an epilogue and takes its constants."""

    def __init__(self, given: Iterator[np.ndarray]) -> None:
        self.given = given
        self.types: list[str] = []
        self.words: list[np.ndarray] = []
        self.reads: list[np.ndarray | None] = []
        self.streams = False
        self.moved = 0.0

    def stage(self, stage: Stage) -> None:
        match stage:
            case AddBias():
                self.types.append("AddBias")
                self.words.append(next(self.given))
            case Relu():
                self.types.append("Relu")
            case Bound(upper):
                self.types.append(f"Bound<{told(upper)}>")
                self.words.append(next(self.given))
            case MultiplyShift():
                self.types.append(f"MultiplyShift<{self._scale(self._constants())}>")
            case SkipAddCodes():
                self._skip_add(stage, stage.dtype)
            case SkipAdd():
                self._skip_add(stage, "int32")
            case Multiply(zero, other_zero, dtype, one_pixel):
                size = 0 if one_pixel else 1
                self.types.append(f"Multiply<{self._other(dtype, size)}, {zero}, {other_zero}>")
            case Requantize(lo, hi):
                self.types.append(f"Requantize<{lo}, {hi}, {self._scale(self._constants(), clipped=True)}>")
            case RequantizeMax(lo, hi):
                forms = [self._scale(self._constants(), clipped=True) for _ in stage.scalings]
                self.types.append(f"RequantizeMax<{lo}, {hi}, {', '.join(forms)}>")
            case Threshold(lo, steps):
                self._thresholds()
                self.types.append(f"Threshold<{lo}, {steps}>")
            case Lookup(dtype):
                self.types.append(f"Lookup<{C_TYPES[dtype]}>")
                self.reads.append(next(self.given))
            case Steps(cells, most):
                self.types.append(f"Steps<{cells}, {most}>")
                self.reads.append(np.concatenate([next(self.given) for _ in range(3)]))
            case StreamMultiply(one_pixel):
                size = 0 if one_pixel else 1
                self._other("int32", size)
                self.types.append(f"StreamMultiply<{size}>")
                b, d = next(self.given), next(self.given)
                self.words += [d, *_halves(b)]
            case Pieces(count):
                self.types.append(f"Pieces<{stage.bits}, {count}>")
                thresholds, c, b, d = (next(self.given) for _ in range(4))
                self.reads.append(_int32(np.concatenate([thresholds, c, d, *_halves(b)])))
            case _:
                assert_never(stage)

    def _skip_add(self, stage: SkipAdd, dtype: str) -> None:
        mine, theirs = self._constants(), self._constants()
        if not stage.self_identity:
            self.types.append(f"MultiplyShift<{self._scale(mine)}>")
        other = self._other(dtype, stage.upsample)
        if stage.other_identity:
            self.types.append(f"Add<{other}>")
        else:
            self.types.append(f"AddScaled<{other}, {self._scale(theirs)}>")

    def _other(self, dtype: str, smaller: int) -> str:
        """Arguments of the type that reads the next tensor: how many times `smaller` each way, 0 where it is
        a pixel an image.
        """
        self.reads.append(None)
        self.streams |= dtype == "int32"
        self.moved += np.dtype(dtype).itemsize / smaller**2 if smaller else 0
        return f"{C_TYPES[dtype]}, {smaller}"

    def store(self, store: Store, maps: int) -> None:
        self.streams |= isinstance(store, StoreStream)
        self.moved += 4 if isinstance(store, StoreStream) else 1
        match store:
            case StoreBorder(parts=()):
                self.types.append(f"StoreBorder<{maps}>")
            case StoreBorder(parts=parts):
                raise ShapeError(
                    "kernels of cards do not split outputs",
                    received=parts,
                    valid="an output that has all channels",
                )
            case StoreStream():
                self.types.append("StoreStream")
            case StoreRequantize():
                form = self._scale(self._constants(), clipped=True)
                self.types.append(f"StoreRequantize<{_signed(store.dtype)}, {store.lo}, {store.hi}, {form}>")
            case StoreThreshold():
                self._thresholds()
                self.types.append(f"StoreThreshold<{_signed(store.dtype)}, {store.lo}, {store.steps}>")
            case StoreCodes(dtype):
                self.types.append(f"StoreCodes<{_signed(dtype)}>")
            case _:
                assert_never(store)

    def _thresholds(self) -> None:
        sign, thresholds = next(self.given), next(self.given)
        self.words += [sign, *thresholds]

    def _constants(self) -> Constants:
        return Constants.of(next(self.given), next(self.given), next(self.given))

    def _scale(self, constants: Constants, *, clipped: bool = False) -> str:
        """Adds the words of (v·c + B) >> d; returns how the kernel takes it. `clipped`: the shifted value may
        leave int32.
        """
        c, b, d = constants.c, constants.b, constants.d
        form = "GENERAL"
        more = np.maximum(32 - d, 0)
        if not clipped and d.max() < 32:
            form = "WIDE"
        elif np.all(np.abs(c) <= _INT32.max >> more) and np.all(np.abs(b) < (1 << 62) >> more):
            form = "HIGH"
            c, b, d = c << more, b << more, d + more - 32
        elif clipped and d.min() >= 2 and d.max() < 32:
            form = "CLAMPED"
        self.words += [c, d, *_halves(b)]
        return form


def _halves(b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The low and the high 32 bits."""
    return b & 0xFFFFFFFF, b >> 32


def _int32(words: np.ndarray) -> np.ndarray:
    """The low 32 bits of int64."""
    return (words & 0xFFFFFFFF).astype(np.uint32).view(np.int32)


def _signed(dtype: str) -> str:
    return told(is_signed(dtype))


def told(value: bool) -> str:
    return "true" if value else "false"


def _packed(words: Sequence[np.ndarray], levels: int) -> np.ndarray:
    if not words:
        return np.zeros(0, np.int32)
    columns = np.stack([np.asarray(word, np.int64).reshape(levels, -1) for word in words])
    padded = np.pad(columns, ((0, 0), (0, 0), (0, -columns.shape[2] % _BLOCK)))
    blocks = padded.reshape(len(words), levels, -1, _BLOCK).transpose(1, 2, 0, 3)
    return _int32(np.ascontiguousarray(blocks))
