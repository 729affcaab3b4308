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
from aqd_deploy.quantization.session import Session
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
    found: dict[str, Observations] = {}
    shapes = Draft(model).shapes
    for part in _parts(tensors, shapes):
        key = hashlib.sha256("\n".join(part).encode()).hexdigest()
        ranges = run.state.once(f"ranges {key}", partial(_ranges, model, part, calibration, run))
        counts: Arrays = {}
        if histograms:
            counts = run.state.once(f"counts {key}", partial(_counts, model, part, ranges, calibration, run))
        for index, name in enumerate(part):
            low, high = ranges[f"{index}_low"], ranges[f"{index}_high"]
            edges = _edges(float(low.min()), float(high.max()))
            found[name] = Observations(low, high, counts.get(str(index), np.zeros(0, int)), edges)
    return found


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


def _ranges(model: ModelProto, names: list[str], calibration: Calibration, run: Run) -> Arrays:
    """Minima and maxima of each channel, computed in the graph: tensors need not be handed out."""
    draft = Draft(copy.deepcopy(model))
    ranks = {name: len(draft.shapes[name]) for name in names}
    reduced = {
        name: [
            reduction(draft, op, name, _all_but_channels(ranks[name])) for op in ("ReduceMin", "ReduceMax")
        ]
        for name in names
    }
    draft.nodes = [*draft.nodes, *(node for pair in reduced.values() for node in pair)]
    session = Session(draft.write(), [node.output[0] for pair in reduced.values() for node in pair])
    arrays: Arrays = {}
    for image, feed in enumerate(run.counted("ranges", calibration.feeds(), len(calibration))):
        found = session(feed)
        for index, name in enumerate(names):
            low, high = (found[node.output[0]].reshape(-1) for node in reduced[name])
            if not (np.isfinite(low).all() and np.isfinite(high).all()):
                raise CalibrationError(
                    f"the network makes a number that isn't finite of calibration image {image}",
                    received=f"{name} in [{low.min():g}, {high.max():g}]", valid="finite numbers",
                    next_command="the same command without this image, or with a repaired network",
                )  # fmt: skip
            arrays[f"{index}_low"] = np.minimum(low, arrays.get(f"{index}_low", low))
            arrays[f"{index}_high"] = np.maximum(high, arrays.get(f"{index}_high", high))
    return arrays


def _all_but_channels(rank: int) -> list[int]:
    """The axes of pixels and batch; all of a tensor without channels."""
    return [axis for axis in range(rank) if axis != 1 or rank < 2]


def _counts(
    model: ModelProto, names: list[str], ranges: Arrays, calibration: Calibration, run: Run
) -> Arrays:
    session = Session(model, names)
    ends = [(float(ranges[f"{i}_low"].min()), float(ranges[f"{i}_high"].max())) for i in range(len(names))]
    counts = {str(index): np.zeros(BINS, np.int64) for index in range(len(names))}
    for feed in run.counted("histograms", calibration.feeds(), len(calibration)):
        for index, array in enumerate(session(feed).values()):
            edges = _edges(*ends[index])
            bins = ((array.reshape(-1) - edges[0]) * (BINS / (edges[-1] - edges[0]))).astype(np.int32)
            counts[str(index)] += np.bincount(np.clip(bins, 0, BINS - 1), minlength=BINS)
    return counts


def _edges(low: float, high: float) -> np.ndarray:
    """Of a tensor that never changes the bins have some width, too."""
    return np.linspace(low, high if high > low else low + max(abs(low), 1.0), BINS + 1)
