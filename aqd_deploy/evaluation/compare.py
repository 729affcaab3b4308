"""Compares two runs of one network: integer by integer, or as approximations of the same real numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aqd_deploy.errors import ShapeError


@dataclass(frozen=True)
class IntegerDifference:
    """`differing` of `count` integers are not the same; `largest` is the largest absolute difference."""

    count: int
    differing: int
    largest: int


@dataclass(frozen=True)
class FloatAgreement:
    """How near two tensors of real numbers are.

    `max_abs` and `mean_abs` of the difference, `correlation` (Pearson) and `cosine`. Both of the last are 1.0
    for equal tensors; otherwise `correlation` is NaN where one side is constant and `cosine` where one is all
    zeros.
    """

    count: int
    max_abs: float
    mean_abs: float
    correlation: float
    cosine: float


def compare_integers(
    first: dict[str, np.ndarray], second: dict[str, np.ndarray]
) -> dict[str, IntegerDifference]:
    """The difference of each output of two runs, tolerance zero.

    Raises ShapeError where the runs have not the same outputs, an output has not the same shape, or is not of
    an integer type (a difference between floats would not be exact). The types may differ in width.
    """
    _check_same(first, second)
    report = {}
    for name in first:
        a, b = np.asarray(first[name]), np.asarray(second[name])
        for array in (a, b):
            if not np.issubdtype(array.dtype, np.integer):
                raise ShapeError(f"the output {name} is not integer", received=array.dtype, valid="int32")
        difference = np.abs(a.astype(np.int64) - b.astype(np.int64))
        report[name] = IntegerDifference(
            count=a.size, differing=int(np.count_nonzero(difference)), largest=int(difference.max(initial=0))
        )
    return report


def total_difference(report: dict[str, IntegerDifference]) -> IntegerDifference:
    """All outputs together."""
    return IntegerDifference(
        count=sum(entry.count for entry in report.values()),
        differing=sum(entry.differing for entry in report.values()),
        largest=max((entry.largest for entry in report.values()), default=0),
    )


def compare_floats(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> dict[str, FloatAgreement]:
    """The agreement of each output of two runs, as real numbers, computed in float64.

    Integer outputs have to be dequantized before (`dequantize`). Raises ShapeError like `compare_integers`.
    """
    _check_same(first, second)
    return {
        name: float_agreement(np.asarray(first[name], np.float64), np.asarray(second[name], np.float64))
        for name in first
    }


def float_agreement(first: np.ndarray, second: np.ndarray) -> FloatAgreement:
    """The agreement of two tensors of one shape."""
    a, b = np.asarray(first, np.float64).ravel(), np.asarray(second, np.float64).ravel()
    difference = np.abs(a - b)
    if a.size == 0 or np.array_equal(a, b):
        return FloatAgreement(a.size, 0.0, 0.0, 1.0, 1.0)
    return FloatAgreement(
        count=a.size,
        max_abs=float(difference.max()),
        mean_abs=float(difference.mean()),
        correlation=_cosine(a - a.mean(), b - b.mean()),
        cosine=_cosine(a, b),
    )


def dequantize(
    outputs: dict[str, np.ndarray], scales: dict[str, float | list[float]]
) -> dict[str, np.ndarray]:
    """η·α of each output as float64; α is one number or one a channel (axis 1).

    `scales` is keyed like `outputs`: `{name: entry["scale"] for name, entry in manifest["outputs"].items()}`.
    Raises ShapeError for an output without a scale or with the wrong number of them.
    """
    real = {}
    for name, values in outputs.items():
        scale = np.atleast_1d(np.asarray(scales.get(name, []), dtype=np.float64))
        if len(scale) != 1 and (values.ndim < 2 or len(scale) != values.shape[1]):
            raise ShapeError(
                f"the output {name} has the wrong number of scales",
                received=len(scale),
                valid=f"1 or {values.shape[1] if values.ndim > 1 else 1}",
            )
        shaped = scale.reshape([1, -1] + [1] * (values.ndim - 2)) if len(scale) > 1 else scale[0]
        real[name] = values.astype(np.float64) * shaped
    return real


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.clip(a @ b / length, -1, 1)) if length > 0 else float("nan")


def _check_same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> None:
    if set(first) != set(second):
        raise ShapeError(
            "the two runs have different outputs",
            received=f"{sorted(set(first) - set(second))} and {sorted(set(second) - set(first))} in one only",
        )
    for name in first:
        shapes = [list(np.shape(run[name])) for run in (first, second)]
        if shapes[0] != shapes[1]:
            raise ShapeError(
                f"the output {name} has two shapes",
                received=f"{shapes[0]} and {shapes[1]}",
                valid="equal shapes",
            )
