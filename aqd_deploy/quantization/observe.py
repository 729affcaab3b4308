"""What the values of tensors are like over all calibration images, in bounded memory."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from onnx import ModelProto

from aqd_deploy.errors import CalibrationError
from aqd_deploy.passes.canonical.draft import Draft
from aqd_deploy.quantization.calibration import Calibration
from aqd_deploy.quantization.progress import Run
from aqd_deploy.quantization.reductions import reduction
from aqd_deploy.quantization.session import Session, over
from aqd_deploy.quantization.state import Arrays

BINS = 2048
_TOGETHER = 1 << 28
"""Bytes of tensors that one session returns for an image."""


@dataclass(frozen=True)
class Observations:
    """`low`, `high`: the range. `channel_low`, `channel_high` [C] that of each channel (axis 1). `counts`
    [BINS] of equal bins from `edges[0]` to `edges[-1]` are empty unless histograms were asked for.
    """

    channel_low: np.ndarray
    channel_high: np.ndarray
    counts: np.ndarray
    edges: np.ndarray

    @property
    def low(self) -> float:
        """The smallest value."""
        return float(self.channel_low.min())

    @property
    def high(self) -> float:
        """The largest value."""
        return float(self.channel_high.max())


def observe(
    model: ModelProto,
    tensors: Sequence[str],
    calibration: Calibration,
    run: Run,
    *,
    histograms: bool = False,
) -> dict[str, Observations]:
    """The tensors of a model over all images: one pass, two with histograms, which need the range first.

    What is finished is kept in the state of `run`. Raises CalibrationError for a tensor that holds NaN or
    infinity.
    """
    # Steps make other networks with tensors of the same names.
    network = hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
    key = hashlib.sha256("\n".join([network, *tensors]).encode()).hexdigest()
    ranges = run.state.once(f"ranges {key}", partial(_ranges, model, tensors, calibration, run))
    counts: Arrays = {}
    for part in _parts(tensors, Draft(model).shapes) if histograms else ():
        key = hashlib.sha256("\n".join([network, *part]).encode()).hexdigest()
        counts |= run.state.once(f"counts {key}", partial(_counts, model, part, ranges, calibration, run))
    return {
        name: Observations(
            ranges[f"{name} low"],
            ranges[f"{name} high"],
            counts.get(f"{name} counts", np.zeros(0, np.int64)),
            _edges(ranges, name),
        )
        for name in tensors
    }


def _parts(tensors: Sequence[str], shapes: dict[str, tuple[int, ...]]) -> Iterator[list[str]]:
    """The tensors, as many at a time as memory is there for."""
    part: list[str] = []
    size = 0
    for name in tensors:
        more = 4 * math.prod(shapes.get(name, ()))
        if part and size + more > _TOGETHER:
            yield part
            part, size = [], 0
        part.append(name)
        size += more
    if part:
        yield part


def _ranges(model: ModelProto, names: Sequence[str], calibration: Calibration, run: Run) -> Arrays:
    """`NAME low` and `NAME high`, by channel, computed in the graph: tensors need not be handed out. Means as
    well, because NaN does not get into minima and maxima.
    """
    draft = Draft(copy.deepcopy(model))
    ranks = {name: len(draft.shapes[name]) for name in names}
    reduced = {
        name: [
            reduction(draft, op_type, name, _all_but_channels(ranks[name]))
            for op_type in ("ReduceMin", "ReduceMax", "ReduceMean")
        ]
        for name in names
    }
    draft.nodes = [*draft.nodes, *(node for nodes in reduced.values() for node in nodes)]
    wanted = [node.output[0] for nodes in reduced.values() for node in nodes]
    results = over(Session(draft.write(), wanted, threads=1), calibration.feeds())
    arrays: Arrays = {}
    for image, found in enumerate(run.counted("ranges", results, len(calibration))):
        for name in names:
            low, high, mean = (found[node.output[0]].reshape(-1) for node in reduced[name])
            if not all(np.isfinite(each).all() for each in (low, high, mean)):
                raise CalibrationError(
                    f"the network makes a number that isn't finite of calibration image {image}",
                    received=f"{name} from {low.min():g} to {high.max():g}, {mean.mean():g} in the mean",
                    valid="finite numbers",
                    next_command="the same command without this image, or with a repaired network",
                )
            for end, value, further in (("low", low, np.minimum), ("high", high, np.maximum)):
                arrays[f"{name} {end}"] = further(value, arrays.get(f"{name} {end}", value))
    return arrays


def _all_but_channels(rank: int) -> list[int]:
    """The axes of pixels and batch; all of a tensor without channels."""
    return [axis for axis in range(rank) if axis != 1 or rank < 2]


def _counts(
    model: ModelProto, names: list[str], ranges: Arrays, calibration: Calibration, run: Run
) -> Arrays:
    """`NAME counts`: the histogram of each tensor."""
    session = Session(model, names)
    edges = {name: _edges(ranges, name) for name in names}
    counts = {f"{name} counts": np.zeros(BINS, np.int64) for name in names}
    for feed in run.counted("histograms", calibration.feeds(), len(calibration)):
        for name, array in session(feed).items():
            first, last = edges[name][0], edges[name][-1]
            bins = ((array.reshape(-1) - first) * (BINS / (last - first))).astype(np.int32)
            counts[f"{name} counts"] += np.bincount(np.clip(bins, 0, BINS - 1), minlength=BINS)
    return counts


def _edges(ranges: Arrays, name: str) -> np.ndarray:
    """Those of the bins, float64 [BINS + 1]; of a tensor that never changes they have some width, too."""
    low, high = float(ranges[f"{name} low"].min()), float(ranges[f"{name} high"].max())
    return np.linspace(low, high if high > low else low + max(abs(low), 1.0), BINS + 1)
