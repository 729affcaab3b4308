"""One output whose rows are boxes, as the tails of YOLO networks make it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from aqd_deploy.errors import ModelFileError, ShapeError


def rows_of(
    outputs: Mapping[str, np.ndarray], described: Mapping[str, Any], name: str, width: int
) -> np.ndarray:
    """float64 [N, width] of an output [1, N, width] or [1, width, N]; of integers what they stand for.

    Raises ShapeError for another shape, ModelFileError for integers without one scale.
    """
    if name not in outputs:
        raise ShapeError(
            "an output that the manifest names is missing", received=name, valid=", ".join(outputs)
        )
    array = np.asarray(outputs[name])
    if array.ndim != 3 or array.shape[0] != 1 or width not in array.shape[1:]:
        raise ShapeError(
            f"the output {name} has another shape than the rows of boxes have", received=list(array.shape),
            valid=f"[1, N, {width}] or [1, {width}, N]",
        )  # fmt: skip
    rows = stacked_rows(array, width)
    if not np.issubdtype(array.dtype, np.integer):
        return rows
    scale, zero = (
        _one(described, name, key, default) for key, default in (("scale", None), ("zero_point", 0))
    )
    return (rows - zero) * scale


def stacked_rows(array: np.ndarray, width: int) -> np.ndarray:
    """float64 [images·N, width] of [images, N, width] or [images, width, N]."""
    rows = array if array.shape[2] == width else array.transpose(0, 2, 1)
    return rows.reshape(-1, width).astype(np.float64)


def _one(described: Mapping[str, Any], name: str, key: str, default: float | None) -> float:
    """The one number that the manifest gives an output."""
    value = described.get(name, {}).get(key, default)
    values: Sequence[Any] = value if isinstance(value, list | tuple) else [value]
    if len(set(values)) != 1 or values[0] is None:
        raise ModelFileError(
            f"the integer output {name} has no single {key} in the manifest",
            received=value,
            valid="one number",
        )
    return float(values[0])
