"""The output maps of one pyramid level, and the candidates that lie in its class map.

A map may be integers with their scale in the manifest (the integer file, the compiled program) or floats (the
QDQ file, torch). Integers stay integers until the score threshold has been decided on them (`thresholds`);
only the entries that survive are turned into numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from aqd_deploy.detection.thresholds import integer_threshold, logit
from aqd_deploy.errors import ModelFileError, ScaleError, ShapeError

CELL_OFFSET = 0.5
"""Where the centre of a cell is in it, from its upper left corner, unless a manifest says another place."""


@dataclass(frozen=True)
class OutputMap:
    """One output map: values [C, H, W] and, for integers, the scale float64 [1] or [C]; they stand for
    values·scale.
    """

    name: str
    values: np.ndarray
    scale: np.ndarray | None

    @classmethod
    def of(
        cls, outputs: Mapping[str, np.ndarray], described: Mapping[str, Any], name: str, channels: int
    ) -> OutputMap:
        """The map `name` of `outputs` [1, C, H, W]; `described` is what the manifest says of outputs by name.

        Raises ShapeError where it is missing or has another shape, ScaleError and ModelFileError where its
        numbers have no meaning.
        """
        if name not in outputs:
            raise ShapeError(
                "an output that the manifest names is missing", received=name, valid=", ".join(outputs)
            )
        array = np.asarray(outputs[name])
        if array.ndim != 4 or array.shape[0] != 1 or array.shape[1] != channels:
            raise ShapeError(
                f"the output {name} has another shape than the manifest says",
                received=list(array.shape),
                valid=f"[1, {channels}, H, W]",
            )
        if np.issubdtype(array.dtype, np.floating):
            return cls(name, array[0], None)
        if not np.issubdtype(array.dtype, np.integer):
            raise ModelFileError(
                f"the output {name} is not made of numbers", received=array.dtype, valid="int32 or float32"
            )
        scale = _scale(described, name, channels)
        zero_point = np.atleast_1d(np.asarray(described[name].get("zero_point", 0), np.int32))
        if len(zero_point) not in (1, channels):
            raise ScaleError(
                f"the output {name} has the wrong number of zero points",
                received=len(zero_point),
                valid=f"1 or {channels}",
            )
        values = array[0] - zero_point.reshape(-1, 1, 1) if zero_point.any() else array[0]
        return cls(name, values, scale)

    def above(self, probability: float) -> np.ndarray:
        """Flat indices int64 of the entries whose sigmoid is greater than `probability`, ascending."""
        if self.scale is None:
            return np.flatnonzero(self.values > np.float64(logit(probability)))
        bounds = [integer_threshold(probability, float(alpha)) for alpha in self.scale]
        if None in bounds:
            return np.arange(self.values.size)
        # Clipped so that int32 values are compared as int32: every one of them is ≥ −2^31.
        least = np.clip([bound + 1 for bound in bounds if bound is not None], -(2**31), 2**31)
        if least.max() < 2**31:
            return np.flatnonzero(self.values >= least.astype(np.int32)[:, None, None])
        return np.flatnonzero(self.values >= least[:, None, None])

    def part(self, channels: np.ndarray) -> OutputMap:
        """The map of these channels alone, int64 [n]."""
        scale = self.scale if self.scale is None or len(self.scale) == 1 else self.scale[channels]
        return OutputMap(self.name, self.values[channels], scale)

    def take(self, channel: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """The real numbers at these places, float64."""
        values = self.values[channel, y, x].astype(np.float64)
        if self.scale is None:
            return values
        return values * (self.scale[channel] if len(self.scale) > 1 else self.scale[0])


def _scale(described: Mapping[str, Any], name: str, channels: int) -> np.ndarray:
    entry = described.get(name)
    if entry is None or "scale" not in entry:
        raise ScaleError(
            f"the integer output {name} has no scale in the manifest", next_command="aqd-deploy inspect FILE"
        )
    scale = np.atleast_1d(np.asarray(entry["scale"], dtype=np.float64))
    if scale.ndim != 1 or len(scale) not in (1, channels):
        raise ScaleError(
            f"the output {name} has the wrong number of scales", received=len(scale), valid=f"1 or {channels}"
        )
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        raise ScaleError(f"a scale of the output {name} is not valid", valid="positive finite numbers")
    return scale


@dataclass(frozen=True)
class Candidates:
    """Entries of a class map: channel, row and column int64 [n], and scores float64 [n]."""

    channel: np.ndarray
    y: np.ndarray
    x: np.ndarray
    scores: np.ndarray

    @classmethod
    def above(cls, scores: OutputMap, probability: float) -> Candidates:
        """The entries whose sigmoid, which is their score, is greater than `probability`."""
        channel, y, x = np.unravel_index(scores.above(probability), scores.values.shape)
        return cls(channel, y, x, sigmoid(scores.take(channel, y, x)))

    def best(self, count: int) -> Candidates:
        """The `count` of the highest scores, by falling score."""
        best = np.argsort(-self.scores, kind="stable")[:count]
        return Candidates(self.channel[best], self.y[best], self.x[best], self.scores[best])

    def scored(self, scores: np.ndarray) -> Candidates:
        """The same with other scores."""
        return replace(self, scores=scores)

    def centres(self, stride: int, offset: float = CELL_OFFSET) -> np.ndarray:
        """Centres of the cells, (i + offset) · stride: float64 [n, 2] (x, y) in pixels of the input."""
        return (np.stack([self.x, self.y], axis=1) + offset) * stride


def by_place(array: np.ndarray, anchors: int = 1) -> np.ndarray:
    """float64 [N·anchors·H·W, C] of maps [N, anchors·C, H, W] of floats: image by image, anchor by anchor,
    cell by cell.
    """
    images, channels, height, width = array.shape
    parted = array.reshape(images, anchors, channels // anchors, height * width).astype(np.float64)
    return parted.transpose(0, 1, 3, 2).reshape(-1, channels // anchors)


def cells_of(array: np.ndarray, anchors: int = 1) -> np.ndarray:
    """The cell (column, row) of each row of `by_place`, int64 [N·anchors·H·W, 2]."""
    y, x = np.divmod(np.arange(array.shape[2] * array.shape[3]), array.shape[3])
    return np.tile(np.stack([x, y], axis=1), (len(array) * anchors, 1))


def anchors_of(array: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """The anchor's sides [anchors, 2] of each row of `by_place`, [N·anchors·H·W, 2]."""
    return np.tile(np.repeat(sides, array.shape[2] * array.shape[3], axis=0), (len(array), 1))


def around(points: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Boxes [n, 4] (x1, y1, x2, y2) of points [n, 2] and the distances [n, 4] to the left, upper, right and
    lower side.
    """
    return np.concatenate([points - distances[:, :2], points + distances[:, 2:]], axis=1)


def about(middles: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """Boxes [n, 4] (x1, y1, x2, y2) of middles and sides [n, 2]."""
    return np.concatenate([middles - sides / 2, middles + sides / 2], axis=1)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1/(1 + exp(−x)), without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * x))
