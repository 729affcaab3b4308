"""Densities of values: weighted points, and pieces of Gaussians that are fitted to them.

Quantization after training and training itself take the interval and the step of a quantizer from such a
density. The idea is that of Yang, Liu, Zhou, Wang and Chen, "Quantization and training of object detection
networks with low-precision weights and activations", Journal of Electronic Imaging 27(1) 013020, 2018: the
densities of a layer's weights and activations are estimated by piecewise Gaussian models. Where the pieces
lie and how they are estimated is ours:

- Pieces. Each side of zero is cut where its magnitudes reach 50, 90, 99 and 99.9 % of its mass. Three times,
  pieces that no Gaussian fits (the logarithm of the density bends upwards) are cut in halves of equal mass.
  A piece has at least 32 values, so that a channel of few weights has one piece a side. What lies at zero
  itself (half of what a ReLU gives) is an atom and no piece: every step represents it exactly.
- Estimator. A piece has the mass, the mean and the variance of its values, which is the maximum likelihood of
  a Gaussian cut off at both ends of it: density ∝ exp(b·t + c·t²) with c ≤ 0. c = 0, a Gaussian of endless
  variance, is an exponential: the tails of a Laplace density.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CUTS = (0.5, 0.9, 0.99, 0.999)
LEAST_POINTS, LEAST_VALUES = 4, 32
QUADRATURE = np.polynomial.legendre.leggauss(48)  # within a piece, while it is fitted
MIDDLES = 256  # points within a piece when steps are compared
NARROWEST, STEEPEST = -200.0, 60.0  # bounds of c and |b|: what the quadrature resolves
ROUNDS, SETTLED = 60, 1e-9
HALVINGS = 3


@dataclass(frozen=True)
class Points:
    """`values` and how often each occurs, `counts`, both float64 [channels, points]; a tensor that has one
    scale is one channel.
    """

    values: np.ndarray
    counts: np.ndarray

    @classmethod
    def of_histogram(cls, counts: np.ndarray, edges: np.ndarray) -> Points:
        """The middles of a histogram's bins: counts [n], edges [n + 1]. What the bin around zero has more
        than its larger neighbour is zeros (half of what a ReLU gives), and stands at zero itself.
        """
        counts, middles = counts.astype(np.float64), (edges[:-1] + edges[1:]) / 2
        zero = int(np.clip(np.searchsorted(edges, 0.0, side="right") - 1, 0, len(counts) - 1))
        zeros = 0.0
        if len(counts) > 1 and edges[zero] <= 0 <= edges[zero + 1]:
            beside = max(counts[k] for k in (zero - 1, zero + 1) if 0 <= k < len(counts))
            zeros = max(0.0, counts[zero] - beside)
        counts[zero] -= zeros
        used = counts > 0
        return cls(np.append(middles[used], 0.0)[None], np.append(counts[used], zeros)[None])

    @classmethod
    def of_weights(cls, weights: np.ndarray, axis: int | None) -> Points:
        """Weights, a channel an index of `axis`, or all in one."""
        channels = weights.reshape(1, -1) if axis is None else np.moveaxis(weights, axis, 0)
        values = channels.reshape(len(channels), -1).astype(np.float64)
        return cls(values, np.ones_like(values))

    @property
    def largest(self) -> np.ndarray:
        """The greatest magnitude of each channel, [channels]."""
        return np.abs(self.values).max(axis=1)


@dataclass(frozen=True)
class Density:
    """Pieces [n] from `left` to `right` of masses that add up to 1 − `atom` (the mass of zero itself).

    Within a piece t runs from −1 to 1, and the density is proportional to exp(slope·t + curvature·t²).
    """

    left: np.ndarray
    right: np.ndarray
    mass: np.ndarray
    slope: np.ndarray
    curvature: np.ndarray
    atom: float

    def points(self) -> Points:
        """The density as points, one channel: 256 a piece, and the atom."""
        t = (np.arange(MIDDLES) + 0.5) / MIDDLES * 2 - 1
        values = (self.left + self.right)[:, None] / 2 + np.outer((self.right - self.left) / 2, t)
        weights = _densities(self.slope, self.curvature, t)
        weights *= (self.mass / weights.sum(axis=1))[:, None]
        return Points(np.append(values, 0.0)[None], np.append(weights, self.atom)[None])


def fit(points: Points) -> list[Density]:
    """The density of each channel; counts need not be whole."""
    pieces = [
        piece
        for channel, (values, counts) in enumerate(zip(points.values, points.counts, strict=True))
        for sign in (-1, 1)
        for piece in _cut(channel, values, counts, sign)
    ]
    for _ in range(HALVINGS):
        _, curvature = _fitted(pieces)
        pieces = [
            half
            for piece, bend in zip(pieces, curvature, strict=True)
            for half in (piece.cut([0.5]) if bend > 0 else [piece])
        ]
    _, curvature = _fitted(pieces)
    slope, curvature = _fitted(pieces, straight=curvature > 0)
    channels = np.array([piece.channel for piece in pieces], int)
    ends = np.array([piece.ends for piece in pieces]).reshape(-1, 2)
    mass = np.array([piece.counts.sum() for piece in pieces])
    densities = []
    for channel, (values, counts) in enumerate(zip(points.values, points.counts, strict=True)):
        own, total = channels == channel, counts.sum()
        atom = float(counts[values == 0].sum() / total)
        densities.append(
            Density(ends[own, 0], ends[own, 1], mass[own] / total, slope[own], curvature[own], atom)
        )
    return densities


@dataclass(frozen=True)
class _Piece:
    """Values of a channel between `ends`, ascending, and how often they occur."""

    channel: int
    ends: tuple[float, float]
    values: np.ndarray
    counts: np.ndarray

    def cut(self, shares: Sequence[float]) -> list[_Piece]:
        """Cut where these shares of the mass are reached from the left, but for cuts that would leave a piece
        with too little. Equal values stay together, so that every piece has a width.
        """
        reached = np.cumsum(self.counts)
        bounds = [0]
        for share in shares:
            bound = int(np.searchsorted(reached, share * reached[-1])) + 1
            bound = int(np.searchsorted(self.values, self.values[bound - 1], side="right"))
            before, behind = slice(bounds[-1], bound), slice(bound, None)
            if all(
                len(self.counts[part]) >= LEAST_POINTS and self.counts[part].sum() >= LEAST_VALUES
                for part in (before, behind)
            ):
                bounds.append(bound)
        ends = [self.ends[0], *((self.values[k - 1] + self.values[k]) / 2 for k in bounds[1:]), self.ends[1]]
        inside = [slice(*pair) for pair in itertools.pairwise([*bounds, len(reached)])]
        return [
            _Piece(self.channel, pair, self.values[part], self.counts[part])
            for pair, part in zip(itertools.pairwise(ends), inside, strict=True)
        ]

    def moments(self) -> tuple[float, float]:
        """The means of t and t², where t runs from −1 to 1 within the piece."""
        left, right = self.ends
        t = (self.values - (left + right) / 2) / ((right - left) / 2)
        total = self.counts.sum()
        return float(t @ self.counts / total), float(t**2 @ self.counts / total)


def _cut(channel: int, values: np.ndarray, counts: np.ndarray, sign: int) -> list[_Piece]:
    """The pieces of the values of one sign."""
    inside = np.flatnonzero((sign * values > 0) & (counts > 0))
    if not len(inside):
        return []
    order = inside[np.argsort(values[inside])]
    far = float(values[order[-1 if sign > 0 else 0]])
    side = _Piece(channel, (min(far, 0.0), max(far, 0.0)), values[order], counts[order])
    return side.cut(CUTS if sign > 0 else [1 - cut for cut in reversed(CUTS)])


def _densities(slope: np.ndarray, curvature: np.ndarray, t: np.ndarray) -> np.ndarray:
    """exp(slope·t + curvature·t²), scaled so that the largest of each piece is 1: [pieces, len(t)]."""
    exponents = np.outer(slope, t) + np.outer(curvature, t**2)
    return np.exp(exponents - exponents.max(axis=1, keepdims=True))


def _fitted(pieces: list[_Piece], straight: np.ndarray | bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Slope and curvature of each piece by Newton's method, damped, on the likelihood, which is concave; the
    curvature of those that are `straight` is kept at 0.
    """
    t, rule = QUADRATURE
    moments = np.array([piece.moments() for piece in pieces]).reshape(-1, 2)
    slope, curvature = np.zeros(len(pieces)), np.zeros(len(pieces))
    for _ in range(ROUNDS):
        weights = _densities(slope, curvature, t) * rule
        weights /= weights.sum(axis=1, keepdims=True)
        m1, m2, m3, m4 = (weights @ t**k for k in (1, 2, 3, 4))
        v11, v12, v22 = m2 - m1**2, np.where(straight, 0.0, m3 - m1 * m2), np.where(straight, 1.0, m4 - m2**2)
        g1, g2 = moments[:, 0] - m1, np.where(straight, 0.0, moments[:, 1] - m2)
        determinant = np.maximum(v11 * v22 - v12**2, 1e-14)
        d1, d2 = (v22 * g1 - v12 * g2) / determinant, (v11 * g2 - v12 * g1) / determinant
        if max(np.abs(d1).max(initial=0), np.abs(d2).max(initial=0)) < SETTLED:
            break
        damping = 1 / np.maximum(1.0, np.maximum(np.abs(d1), np.abs(d2)) / 5)
        slope = np.clip(slope + damping * d1, -STEEPEST, STEEPEST)
        curvature = np.clip(curvature + damping * d2, NARROWEST, -NARROWEST)
    return slope, curvature


def together(densities: list[Points]) -> Points:
    """One density a channel; the shorter ones are filled up with points that do not occur."""
    longest = max(each.values.shape[1] for each in densities)

    def filled(arrays: list[np.ndarray]) -> np.ndarray:
        return np.concatenate([np.pad(array, ((0, 0), (0, longest - array.shape[1]))) for array in arrays])

    return Points(filled([each.values for each in densities]), filled([each.counts for each in densities]))
