"""Real numbers and the integers that stand for them, by what a manifest says of inputs and outputs.

    real = (integer − zero_point)·scale

An entry has `scale` and `zero_point`, one number or one a channel (axis 1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from aqd_deploy.errors import AqdError, ScaleError

FLOATS = ("float16", "float32", "float64")
INTEGERS = ("uint8", "int8", "int32")
"""The dtypes of integer networks' tensors."""
Entry = Mapping[str, Any]


def quantized(name: str, values: np.ndarray, entry: Entry, dtype: str) -> np.ndarray:
    """The integers of `dtype` that stand for the floats `values` [1, C, ...]: ONNX's QuantizeLinear, which
    rounds half to even and saturates.

    In float64, where the quotient of two float32 numbers cannot round to another integer than the exact one
    does. Raises AqdError for NaN, ScaleError for another number of scales than channels.
    """
    if np.isnan(values).any():
        raise AqdError(f"input {name} is not all numbers", received="NaN", valid="floats that are numbers")
    scale, zero_point = (_per_channel(name, entry, key, values.shape) for key in ("scale", "zero_point"))
    limits = np.iinfo(dtype)
    codes = np.rint(values.astype(np.float64) / scale) + zero_point
    return np.clip(codes, limits.min, limits.max).astype(dtype)


def dequantized(name: str, integers: np.ndarray, entry: Entry) -> np.ndarray:
    """The float32 numbers that the integers [1, C, ...] of an output stand for.

    Raises ScaleError where the entry has no scale, or another number of them than channels.
    """
    if "scale" not in entry:
        raise ScaleError(
            f"the integer output {name} has no scale in the manifest", next_command="aqd-deploy inspect FILE"
        )
    scale, zero_point = (_per_channel(name, entry, key, integers.shape) for key in ("scale", "zero_point"))
    return ((integers.astype(np.float64) - zero_point) * scale).astype(np.float32)


def _per_channel(name: str, entry: Entry, key: str, shape: Sequence[int]) -> np.ndarray:
    """float64, to be used with tensors of `shape` [1, C, ...]."""
    values = np.atleast_1d(np.asarray(entry.get(key, 0), np.float64))
    if len(values) not in (1, shape[1]):
        raise ScaleError(
            f"{name} has the wrong number of values in its {key}", received=len(values),
            valid=f"1 or {shape[1]}",
        )  # fmt: skip
    return values.reshape([1, -1] + [1] * (len(shape) - 2))
