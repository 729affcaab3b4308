"""An epilogue as a chain of C++ types (`native/epilogue.cuh`), and its constants as the chain reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import assert_never

import numpy as np

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.integer.types import is_signed
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

_INT32 = np.iinfo(np.int32)
_BLOCK = 64


@dataclass(frozen=True)
class Chain:
    """`code`: the C++ type; `tensors`: addresses that it takes; `words`: its constants, int32
    [levels, blocks of 64 channels, words, 64]; `codes_only`: it reads and writes nothing but bytes;
    `borders`: it writes one tensor a map; `adds`: it reads other tensors; `moved`: bytes of memory a value.
    """

    code: str
    tensors: int
    words: np.ndarray
    codes_only: bool
    borders: bool
    adds: bool
    moved: float


def chain_of(epilogue: Epilogue, constants: Sequence[np.ndarray], levels: int, maps: int) -> Chain:
    """The chain of `epilogue`, whose arrays have a row a level, [levels·C]; a `StoreBorder` has `maps`
    outputs.
    """
    writer = _Writer(iter(constants))
    for stage in epilogue.stages:
        writer.stage(stage)
    for store in epilogue.stores:
        writer.store(store, maps)
    streams = any(isinstance(store, StoreStream) for store in epilogue.stores)
    adds = any(isinstance(stage, SkipAdd) for stage in epilogue.stages)
    borders = any(isinstance(store, StoreBorder) for store in epilogue.stores)
    code = f"Chain<{', '.join(writer.types)}>"
    added = sum(4 / stage.upsample**2 for stage in epilogue.stages if isinstance(stage, SkipAdd))
    stored = sum(4 if isinstance(store, StoreStream) else 1 for store in epilogue.stores)
    codes_only = not streams and not adds
    words = _packed(writer.words, levels)
    return Chain(code, writer.tensors, words, codes_only, borders, adds, added + stored)


class _Writer:
    """Goes through an epilogue and takes its constants."""

    def __init__(self, given: Iterator[np.ndarray]) -> None:
        self.given = given
        self.types: list[str] = []
        self.words: list[np.ndarray] = []
        self.tensors = 0

    def stage(self, stage: Stage) -> None:
        match stage:
            case AddBias():
                self.types.append("AddBias")
                self.words.append(next(self.given))
            case Relu():
                self.types.append("Relu")
            case MultiplyShift():
                self.types.append(f"MultiplyShift<{self._scale(self._constants())}>")
            case Bound() | SkipAddCodes() | Multiply() | Requantize() | Threshold():
                raise _not_on_cards(stage)
            case Lookup() | Steps() | Pieces() | StreamMultiply():
                raise _not_on_cards(stage)
            case SkipAdd():
                self._skip_add(stage)
            case _:
                assert_never(stage)

    def _skip_add(self, stage: SkipAdd) -> None:
        mine, theirs = self._constants(), self._constants()
        if not stage.self_identity:
            self.types.append(f"MultiplyShift<{self._scale(mine)}>")
        if stage.other_identity:
            self.types.append(f"Add<{stage.upsample}>")
        else:
            self.types.append(f"AddScaled<{stage.upsample}, {self._scale(theirs)}>")
        self.tensors += 1

    def store(self, store: Store, maps: int) -> None:
        self.tensors += maps if isinstance(store, StoreBorder) else 1
        match store:
            case StoreBorder(parts=()):
                self.types.append(f"StoreBorder<{maps}>")
            case StoreBorder() | StoreCodes():
                raise _not_on_cards(store)
            case StoreStream():
                self.types.append("StoreStream")
            case StoreRequantize():
                form = self._scale(self._constants(), clipped=True)
                self.types.append(f"StoreRequantize<{_signed(store.dtype)}, {store.lo}, {store.hi}, {form}>")
            case StoreThreshold():
                sign, thresholds = next(self.given), next(self.given)
                self.words += [sign, *thresholds]
                self.types.append(f"StoreThreshold<{_signed(store.dtype)}, {store.lo}, {store.steps}>")
            case _:
                assert_never(store)

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
        self.words += [c, d, b & 0xFFFFFFFF, b >> 32]
        return form


def _not_on_cards(step: Stage | Store) -> UnsupportedModelError:
    return UnsupportedModelError(
        "a program for cards cannot run this step of an epilogue",
        received=type(step).__name__,
        valid="networks of convolutions, pools, skip-adds and requantizations",
        next_command="aqd-deploy compile FILE -o PROGRAM.so --target host",
    )


def _signed(dtype: str) -> str:
    return "true" if is_signed(dtype) else "false"


def _packed(words: Sequence[np.ndarray], levels: int) -> np.ndarray:
    if not words:
        return np.zeros(0, np.int32)
    columns = np.stack([np.asarray(word, np.int64).reshape(levels, -1) for word in words])
    padded = np.pad(columns, ((0, 0), (0, 0), (0, -columns.shape[2] % _BLOCK)))
    blocks = padded.reshape(len(words), levels, -1, _BLOCK).transpose(1, 2, 0, 3)
    return np.ascontiguousarray(blocks & 0xFFFFFFFF).astype(np.uint32).view(np.int32)
