"""F(m, 3) along one dimension: m neighbouring outputs of a 3-tap filter with fewer than 3m products.

y = A·((G·g) ⊙ (B·d)). B and A are integers; G is made so by a factor for each row, which A takes back up to
one common divisor. Every line evaluates polynomials at a few points (Toom-Cook); which points decides how
much the operands grow, and so how few bits the activations must have:

| line | points | products an output | activations grow | weights grow | divisor |
|---|---|---|---|---|---|
| F2 | 0, ±1, ∞ | 2 | 2 | 3 | 2 |
| C4 | 0, ±1, ±i, ∞ | 1.75 | 4 | 3 | 4 |
| F3 | 0, ±1, 2, ∞ | 1.67 | 6 | 7 | 6 |
| F4 | 0, ±1, ±2, ∞ | 1.5 | 10 | 7 | 24 |

"Grow" is the largest sum of a row's absolute values. The two conjugate points ±i take three real products
(Gauss): of (a + ib)(c + ie) with k₁ = c(a + b), k₂ = a(e − c), k₃ = b(c + e) the real part is k₁ − k₃, the
imaginary one k₁ + k₂.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

Values = list[Any]


@dataclass(frozen=True)
class Line:
    """F(`outputs`, 3) along one dimension.

    The three functions are linear and work on anything that can be added: numpy arrays, expressions.
    `spread(d)` is B·d for outputs + 2 samples, `weigh(g)` the scaled G·g of 3 taps, `gather(m)` is A·m for
    `products` products, `divisor` times the result.
    """

    outputs: int
    products: int
    divisor: int
    spread: Callable[[Values], Values]
    weigh: Callable[[Values], Values]
    gather: Callable[[Values], Values]

    @property
    def size(self) -> int:
        """Samples that meet in the outputs."""
        return self.outputs + 2

    @cached_property
    def spread_matrix(self) -> np.ndarray:
        """B, int64 [products, size]."""
        return _matrix(self.spread, self.size)

    @cached_property
    def weigh_matrix(self) -> np.ndarray:
        """G with its factors, int64 [products, 3]."""
        return _matrix(self.weigh, 3)

    @cached_property
    def gather_matrix(self) -> np.ndarray:
        """A times the divisor, int64 [outputs, products]."""
        return _matrix(self.gather, self.products)


def _matrix(function: Callable[[Values], Values], size: int) -> np.ndarray:
    return np.stack(function(list(np.eye(size, dtype=np.int64))))


def _doubled(value: Any) -> Any:
    return value + value


def _spread2(d: Values) -> Values:
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _weigh2(g: Values) -> Values:
    ends, middle = g[0] + g[2], g[1]
    return [_doubled(g[0]), ends + middle, ends - middle, _doubled(g[2])]


def _gather2(m: Values) -> Values:
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]


def _spread3(d: Values) -> Values:
    two1, two2 = _doubled(d[1]), _doubled(d[2])
    return [
        _doubled(d[0]) - d[1] - (two2 - d[3]),
        d[3] - d[2] - two1,
        d[3] - d[2] - (two2 - two1),
        d[3] - d[1],
        d[4] - d[2] + _doubled(d[1] - d[3]),
    ]


def _weigh3(g: Values) -> Values:
    ends, middle = g[0] + g[2], g[1]
    four = _doubled(_doubled(g[2]))
    return [g[0], ends + middle, ends - middle, g[0] + _doubled(middle) + four, g[2]]


def _gather3(m: Values) -> Values:
    """Rows 0-4 of G carry 2, −2, −6, 6 and 1, so A's columns carry 3, −3, −1, 1 and 6."""
    three = m[1] + _doubled(m[1])
    last = _doubled(m[4] + _doubled(m[4]))
    two = _doubled(m[3])
    outer = m[0] + _doubled(m[0])
    return [
        outer - three + (m[3] - m[2]),
        two + m[2] - three,
        _doubled(two) - m[2] - three + last,
    ]


def _spread4(d: Values) -> Values:
    four = [_doubled(_doubled(v)) for v in d[:4]]
    outer, inner = d[4] - four[2], d[3] - four[1]
    near, far = d[4] - d[2], _doubled(d[3] - d[1])
    return [
        four[0] - four[2] + near,
        outer + inner,
        outer - inner,
        near + far,
        near - far,
        four[1] - four[3] + (d[5] - d[3]),
    ]


def _weigh4(g: Values) -> Values:
    ends, middle = g[0] + g[2], g[1]
    steep, double = g[0] + _doubled(_doubled(g[2])), _doubled(g[1])
    return [g[0], ends + middle, ends - middle, steep + double, steep - double, g[2]]


def _gather4(m: Values) -> Values:
    """Rows 0-5 of G carry 4, −6, −6, 24, 24 and 1, so A's columns carry 6, −4, −4, 1, 1 and 24."""
    plus, minus = m[1] + m[2], m[1] - m[2]
    wide_plus, wide_minus = m[3] + m[4], _doubled(m[3] - m[4])
    four_plus, four_minus = _doubled(_doubled(plus)), _doubled(_doubled(minus))
    six = _doubled(m[0] + _doubled(m[0]))
    last = _doubled(_doubled(_doubled(m[5] + _doubled(m[5]))))
    return [
        six + wide_plus - four_plus,
        wide_minus - four_minus,
        _doubled(_doubled(wide_plus)) - four_plus,
        _doubled(_doubled(wide_minus)) - four_minus + last,
    ]


def _spread_complex(d: Values) -> Values:
    odd, even = d[1] + d[3], d[2] + d[4]
    real, imaginary = d[4] - d[2], d[3] - d[1]
    return [d[0] - d[4], even + odd, even - odd, real + imaginary, real, imaginary, d[5] - d[1]]


def _weigh_complex(g: Values) -> Values:
    ends, real, imaginary = g[0] + g[2], g[0] - g[2], g[1]
    return [
        _doubled(g[0]),
        ends + imaginary,
        ends - imaginary,
        real,
        imaginary - real,
        real + imaginary,
        _doubled(g[2]),
    ]


def _gather_complex(m: Values) -> Values:
    """4y: the weights of 0 and ∞ carry 2, those of ±1 carry 4, ±i count twice, as conjugates."""
    plus, minus = m[1] + m[2], m[1] - m[2]
    real, imaginary = _doubled(m[3] - m[5]), _doubled(m[3] + m[4])
    return [
        plus + real + _doubled(m[0]),
        minus - imaginary,
        plus - real,
        minus + imaginary + _doubled(m[6]),
    ]


LINES = {
    "f2": Line(2, 4, 2, _spread2, _weigh2, _gather2),
    "c4": Line(4, 7, 4, _spread_complex, _weigh_complex, _gather_complex),
    "f3": Line(3, 5, 6, _spread3, _weigh3, _gather3),
    "f4": Line(4, 6, 24, _spread4, _weigh4, _gather4),
}
