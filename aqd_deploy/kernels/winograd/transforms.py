"""F(m, 3) along one dimension: m neighbouring outputs of a 3-tap filter with fewer than 3m products.

y = A·((G·g) ⊙ (B·d)). B and A are integers; G is made so by a factor for each row, which A takes back up to
one common divisor. Every line evaluates polynomials at a few points (Toom-Cook); which points decides how
much the operands grow, and so how few bits the activations must have:

| line | points | activations grow | weights grow | divisor |
|---|---|---|---|---|
| F2 | 0, ±1, ∞ | 2 | 3 | 2 |
| C4 | 0, ±1, ∞, ±i | 4 | 4 | 4 |
| F3 | 0, ±1, 2, ∞ | 6 | 7 | 6 |
| F4 | 0, ±1, ±2, ∞ | 10 | 7 | 24 |

"Grow" is the largest sum of a row's absolute values. The two conjugate points ±i are one complex value, whose
product `winograd_forms` computes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Values = list[Any]


@dataclass(frozen=True)
class Line:
    """F(`outputs`, 3) along one dimension.

    The three functions are linear and work on anything that can be added: numpy arrays, expressions.
    `input_transform(d)` is B·d for outputs + 2 samples and `filter_transform(g)` the scaled G·g of 3 taps:
    `reals` values and, if the line is `complex`, a real and an imaginary part. `output_transform(m)` is A·m
    of the products of both, `divisor` times the result; it takes the complex parts doubled, for the two
    points.
    """

    outputs: int
    reals: int
    divisor: int
    input_transform: Callable[[Values], Values]
    filter_transform: Callable[[Values], Values]
    output_transform: Callable[[Values], Values]
    complex: bool = False

    @property
    def size(self) -> int:
        """Samples that meet in the outputs."""
        return self.outputs + 2

    @property
    def values(self) -> int:
        """Values that samples are transformed to."""
        return self.reals + 2 * self.complex


def doubled(value: Any) -> Any:
    """2·value, as a sum."""
    return value + value


def _input2(d: Values) -> Values:
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _filter2(g: Values) -> Values:
    ends, middle = g[0] + g[2], g[1]
    return [doubled(g[0]), ends + middle, ends - middle, doubled(g[2])]


def _output2(m: Values) -> Values:
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]


def _input3(d: Values) -> Values:
    two1, two2 = doubled(d[1]), doubled(d[2])
    return [
        doubled(d[0]) - d[1] - (two2 - d[3]),
        d[3] - d[2] - two1,
        d[3] - d[2] - (two2 - two1),
        d[3] - d[1],
        d[4] - d[2] + doubled(d[1] - d[3]),
    ]


def _filter3(g: Values) -> Values:
    ends, middle = g[0] + g[2], g[1]
    four = doubled(doubled(g[2]))
    return [g[0], ends + middle, ends - middle, g[0] + doubled(middle) + four, g[2]]


def _output3(m: Values) -> Values:
    """Rows 0-4 of G carry 2, −2, −6, 6 and 1, so A's columns carry 3, −3, −1, 1 and 6."""
    three = m[1] + doubled(m[1])
    last = doubled(m[4] + doubled(m[4]))
    two = doubled(m[3])
    outer = m[0] + doubled(m[0])
    return [
        outer - three + (m[3] - m[2]),
        two + m[2] - three,
        doubled(two) - m[2] - three + last,
    ]


def _input4(d: Values) -> Values:
    four = [doubled(doubled(v)) for v in d[:4]]
    outer, inner = d[4] - four[2], d[3] - four[1]
    near, far = d[4] - d[2], doubled(d[3] - d[1])
    return [
        four[0] - four[2] + near,
        outer + inner,
        outer - inner,
        near + far,
        near - far,
        four[1] - four[3] + (d[5] - d[3]),
    ]


def _filter4(g: Values) -> Values:
    ends, middle = g[0] + g[2], g[1]
    steep, double = g[0] + doubled(doubled(g[2])), doubled(g[1])
    return [g[0], ends + middle, ends - middle, steep + double, steep - double, g[2]]


def _output4(m: Values) -> Values:
    """Rows 0-5 of G carry 4, −6, −6, 24, 24 and 1, so A's columns carry 6, −4, −4, 1, 1 and 24."""
    plus, minus = m[1] + m[2], m[1] - m[2]
    wide_plus, wide_minus = m[3] + m[4], doubled(m[3] - m[4])
    four_plus, four_minus = doubled(doubled(plus)), doubled(doubled(minus))
    six = doubled(m[0] + doubled(m[0]))
    last = doubled(doubled(doubled(m[5] + doubled(m[5]))))
    return [
        six + wide_plus - four_plus,
        wide_minus - four_minus,
        doubled(doubled(wide_plus)) - four_plus,
        doubled(doubled(wide_minus)) - four_minus + last,
    ]


def _input_complex(d: Values) -> Values:
    odd, even = d[1] + d[3], d[2] + d[4]
    return [d[0] - d[4], even + odd, even - odd, d[5] - d[1], d[4] - d[2], d[3] - d[1]]


def _filter_complex(g: Values) -> Values:
    ends, middle = g[0] + g[2], g[1]
    return [
        doubled(doubled(g[0])),
        ends + middle,
        ends - middle,
        doubled(doubled(g[2])),
        g[0] - g[2],
        middle,
    ]


def _output_complex(m: Values) -> Values:
    plus, minus = m[1] + m[2], m[1] - m[2]
    return [plus + m[4] + m[0], minus - m[5], plus - m[4], minus + m[5] + m[3]]


LINES = {
    "f2": Line(2, 4, 2, _input2, _filter2, _output2),
    "c4": Line(4, 4, 4, _input_complex, _filter_complex, _output_complex, complex=True),
    "f3": Line(3, 5, 6, _input3, _filter3, _output3),
    "f4": Line(4, 6, 24, _input4, _filter4, _output4),
}
