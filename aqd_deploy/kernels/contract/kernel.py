"""What a compiler gets of the kernels: a TIR function, how its weights lie, and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from aqd_deploy.kernels.contract.choice import Choice


class Layout(Protocol):
    """How the weights of a kernel lie in memory; equal layouts are equal and have one hash."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the packed weights, int8."""

    def pack(self, weights: np.ndarray) -> np.ndarray:
        """Weights int8 [out, in, kh, kw] in this layout. Raises ShapeError on another shape."""


@dataclass(frozen=True)
class Kernel:
    """One convolution as a TIR function, and how its weights lie.

    `prim_func` has no global symbol. Its parameters: data uint8 or int8 [H, W, I]; weights int8
    `layout.shape`; parameters of stages and stores and outputs [OH, OW, O] as in `spec.Epilogue`. Outputs
    must not alias inputs. `name` is the family with its instruction set, `why` the reason for it.
    `executed_macs`: multiply-accumulates that it executes, those of whole tiles where it has such, without
    those on channels that pad a vector. `writes_once`: no output value is computed twice, so the same choice
    can be built with a `spec.StoreInPlace`; `stores_borders`: it can be built with a `spec.StoreBorder`, and
    `splits_borders`: with one that has parts.
    """

    prim_func: Any
    layout: Layout
    name: str
    why: str
    choice: Choice
    executed_macs: int
    writes_once: bool
    stores_borders: bool
    splits_borders: bool


@dataclass(frozen=True)
class Instructions:
    """What a kernel multiplies with: `name` for people, `pattern`, a regular expression that finds it in
    assembly.
    """

    name: str
    pattern: str


@dataclass(frozen=True)
class InnerLoop:
    """`lines` are the instructions of a kernel's loop, `products` the multiply-accumulates of one turn.
    `modelled`: whether simulators know how long they take.
    """

    lines: tuple[str, ...]
    products: int
    modelled: bool = True


@dataclass(frozen=True)
class Peak:
    """How fast a device multiplies at best, by the instruction `name`: a PrimFunc without global symbol, of
    weights int8 [`weight_bytes`] and out int32 [`outputs`], which does `macs` multiply-accumulates in all.
    """

    name: str
    prim_func: Any
    weight_bytes: int
    outputs: int
    macs: int


@dataclass(frozen=True)
class Stream:
    """How fast a device reads the memory `name`: a PrimFunc without global symbol, of data int32 [`words`],
    which should be ones, and out int32 [`outputs`], which reads `read_bytes` in all.
    """

    name: str
    prim_func: Any
    words: int
    outputs: int
    read_bytes: int
