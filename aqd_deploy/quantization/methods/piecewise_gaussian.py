"""A density made of pieces of Gaussians, fitted to the values of a tensor, and the step that suits it.

The idea is that of Yang, Liu, Zhou, Wang and Chen, "Quantization and training of object detection networks
with low-precision weights and activations", Journal of Electronic Imaging 27(1) 013020, 2018: the densities
of a layer's weights and activations are estimated by piecewise Gaussian models, and the interval and the step
of its quantizers follow from them. Where the pieces lie, how they are estimated and how the step follows is
ours:

- Pieces. Each side of zero is cut where its magnitudes reach 50, 90, 99 and 99.9 % of its mass. Three times,
  pieces that no Gaussian fits (the logarithm of the density bends upwards) are cut in halves of equal mass.
  A piece has at least 32 values, so that a channel of few weights has one piece a side. What lies at zero
  itself (half of what a ReLU gives) is an atom and no piece: every step represents it exactly.
- Estimator. A piece has the mass, the mean and the variance of its values, which is the maximum likelihood of
  a Gaussian cut off at both ends of it: density ∝ exp(b·t + c·t²) with c ≤ 0. c = 0, a Gaussian of endless
  variance, is an exponential: the tails of a Laplace density.
- Interval and step. Those of the least expected squared error under the density, of all steps; the interval
  is the step times the codes. Nothing depends on single extreme values, but on their mass.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aqd_deploy.quantization.lp_search import Candidates, Points
from aqd_deploy.quantization.observe import Observations
from aqd_deploy.quantization.quantizer import QuantizerParameters

CUTS = (0.5, 0.9, 0.99, 0.999)
LEAST_POINTS, LEAST_VALUES = 4, 32
QUADRATURE = np.polynomial.legendre.leggauss(48)  # within a piece, while it is fitted
MIDDLES = 256  # points within a piece when steps are compared
NARROWEST, STEEPEST = -200.0, 60.0  # bounds of c and |b|: what the quadrature resolves
ROUNDS, SETTLED = 60, 1e-9
HALVINGS = 3
REFINEMENTS = 2


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
        with too little.
        """
        reached = np.cumsum(self.counts)
        bounds = [0]
        for share in shares:
            bound = int(np.searchsorted(reached, share * reached[-1])) + 1
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


def _together(densities: list[Points]) -> Points:
    """One density a channel; the shorter ones are filled up with points that do not occur."""
    longest = max(each.values.shape[1] for each in densities)

    def filled(arrays: list[np.ndarray]) -> np.ndarray:
        return np.concatenate([np.pad(array, ((0, 0), (0, longest - array.shape[1]))) for array in arrays])

    return Points(filled([each.values for each in densities]), filled([each.counts for each in densities]))


def best_quantizer(points: Points, bits: int, signed: bool, axis: int | None = None) -> QuantizerParameters:
    """The quantizer of the least expected squared error under densities, one a channel: of 100 ranges, then
    twice of what lies between the neighbours of the best, ten times finer.
    """
    tried = Candidates.of(points, bits, signed)
    spacing = tried.steps[0]
    for _ in range(REFINEMENTS):
        best = tried.best(tried.errors(points, (2.0,))[0])
        finer = best.steps + np.outer(np.linspace(-0.9, 0.9, 19), spacing)
        tried = Candidates(finer, best.zero_points + np.zeros_like(finer), bits, signed)
        spacing = spacing / 10
    return tried.best(tried.errors(points, (2.0,))[0]).parameters(points, axis)


class PiecewiseGaussian:
    """Interval and step of each tensor by the density that is fitted to it."""

    histograms = True

    def activation(self, observed: Observations, bits: int, signed: bool) -> QuantizerParameters:
        """By the histogram."""
        points = Points.of_histogram(observed.counts, observed.edges)
        return best_quantizer(fit(points)[0].points(), bits, signed)

    def weight(self, weights: np.ndarray, bits: int, axis: int | None) -> QuantizerParameters:
        """By the weights themselves, each channel's by themselves."""
        points = Points.of_weights(weights, axis)
        densities = [each.points() for each in fit(points)]
        return best_quantizer(_together(densities), bits, True, axis)
