"""Inputs and outputs of a program as its manifest describes them, and what is passed to it or comes back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aqd_deploy.errors import ShapeError


@dataclass(frozen=True)
class TensorInfo:
    """Name, shape (NCHW, as in the integer ONNX) and numpy dtype name of an input or output."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @classmethod
    def from_manifest(cls, entries: Iterable[Mapping[str, Any]]) -> list[TensorInfo]:
        """Those of a manifest's list `program.inputs` or `program.outputs`."""
        return [cls(entry["name"], tuple(entry["shape"]), entry["dtype"]) for entry in entries]


def checked_inputs(infos: Sequence[TensorInfo], inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The arrays in the order of `infos`. Raises ShapeError for a missing or unknown name, another shape or
    another dtype.
    """
    unknown = sorted(set(inputs) - {info.name for info in infos})
    if unknown:
        raise ShapeError(
            f"the program has no input {unknown[0]}", valid=", ".join(info.name for info in infos)
        )
    return [_checked(info, inputs) for info in infos]


def random_inputs(infos: Iterable[TensorInfo], seed: int = 0) -> dict[str, np.ndarray]:
    """Uniform pseudo-random values over the whole range of each input's dtype."""
    generator = np.random.default_rng(seed)
    return {
        info.name: generator.integers(
            np.iinfo(info.dtype).min, np.iinfo(info.dtype).max, info.shape, info.dtype, endpoint=True
        )
        for info in infos
    }


def _checked(info: TensorInfo, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    if info.name not in inputs:
        raise ShapeError(f"input {info.name} is missing", received=", ".join(inputs) or "no inputs")
    array = np.asarray(inputs[info.name])
    if array.shape != info.shape or array.dtype != np.dtype(info.dtype):
        raise ShapeError(
            f"input {info.name} does not fit the program",
            received=f"{array.dtype} {list(array.shape)}",
            valid=f"{info.dtype} {list(info.shape)}",
        )
    return array
