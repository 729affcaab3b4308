"""Exact rational arithmetic of scales: what a channel's integers mean, without a rounded constant.

A float32 constant is taken as the dyadic rational it is. Batch norm brings one irrational number a channel,
σ = √(var + ε); it is kept as the rational V = σ² and every decision about it is made with integer square
roots.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

SQRT_BITS = 192
"""Where an irrational scale must become a rational number, it does so within 2^-192 of itself."""


def exact(value: float | np.floating | int) -> Fraction:
    """The rational number that a finite float is; OverflowError or ValueError for an infinity or a NaN."""
    return Fraction(float(value)) if not isinstance(value, int) else Fraction(value)


def exact_list(values: np.ndarray) -> list[Fraction]:
    """`exact` of every element of a float array, flattened."""
    return [Fraction(v) for v in np.asarray(values, dtype=np.float64).ravel().tolist()]


def product(x: Fraction, y: Fraction) -> Fraction:
    """x·y, without the search for the operands' types that takes most of the time of Fraction's own."""
    return Fraction(x.numerator * y.numerator, x.denominator * y.denominator)


def total(x: Fraction, y: Fraction) -> Fraction:
    """x + y, likewise."""
    return Fraction(x.numerator * y.denominator + y.numerator * x.denominator, x.denominator * y.denominator)


def round_half_even(value: Fraction) -> int:
    """The nearest integer, ties to even: what ONNX QuantizeLinear does."""
    return round(value)


def floor_surd(p: Fraction, q: Fraction, v: Fraction) -> tuple[int, bool]:
    """Floor of p + q·√v and whether that sum is an integer, both exact. v ≥ 0.

    q·√v = ±√(q²v) is brought over the denominator of p; floor(x / n) = floor(floor(x) / n) for whole n > 0
    leaves one integer square root.
    """
    square = q * q * v
    # p + √square = (p.num·b + √(square·(p.den·b)²)) / (p.den·b) with b the denominator of square.
    den = p.denominator * square.denominator
    radicand = square.numerator * square.denominator * p.denominator * p.denominator
    root = math.isqrt(radicand)
    perfect = root * root == radicand
    if q < 0:
        root = -root if perfect else -root - 1
    total = p.numerator * square.denominator + root
    whole, remainder = divmod(total, den)
    return whole, perfect and remainder == 0


def inverse_sqrt(value: Fraction, bits: int = SQRT_BITS) -> Fraction:
    """1/√value within 2^−bits of itself, relative; exact when value is a rational squared. value > 0."""
    if value <= 0:
        raise ValueError(f"1/√{value}")
    root = math.isqrt(value.numerator * value.denominator)
    if root * root == value.numerator * value.denominator:
        return Fraction(value.denominator, root)
    # The result has at least bits + 1 significant bits, whatever the size of value.
    shift = bits + 1 + max(value.numerator.bit_length() - value.denominator.bit_length(), 0) // 2 + 1
    scaled = math.isqrt((value.denominator << (2 * shift)) // value.numerator)
    return Fraction(scaled, 1 << shift)


@dataclass(frozen=True, slots=True)
class ChannelForm:
    """What the integer η of one channel stands for: η·a·r + b0 + b1·r with r = 1/√v.

    `a` may be negative (γ < 0) or zero (γ = 0: a constant channel, b1 is then 0 as well). v is 1 where
    there is no batch norm.
    """

    a: Fraction
    b0: Fraction = Fraction(0)
    b1: Fraction = Fraction(0)
    v: Fraction = Fraction(1)

    def scaled(self, factor: Fraction) -> ChannelForm:
        """The form of factor times the value."""
        return ChannelForm(self.a * factor, self.b0 * factor, self.b1 * factor, self.v)

    def shifted(self, offset: Fraction) -> ChannelForm:
        """The form of the value plus offset."""
        return ChannelForm(self.a, self.b0 + offset, self.b1, self.v)

    @property
    def irrational(self) -> bool:
        """Whether the form depends on an irrational r."""
        square = self.v.numerator * self.v.denominator
        return bool(self.a) and square != 1 and math.isqrt(square) ** 2 != square

    def rationalised(self, bits: int = SQRT_BITS) -> ChannelForm:
        """The form with r replaced by a rational within 2^-bits of it, relative; exact when r is rational."""
        if self.v.numerator == self.v.denominator:
            return ChannelForm(self.a, self.b0 + self.b1) if self.b1 else self
        r = inverse_sqrt(self.v, bits)
        return ChannelForm(self.a * r, self.b0 + self.b1 * r)

    def batch_normed(self, gamma: Fraction, beta: Fraction, mean: Fraction, v: Fraction) -> ChannelForm:
        """The form of γ(x − μ)/√v + β (Eq. 5).

        A batch norm on top of another one keeps a single irrational number by rationalising the first, to
        192 bits.
        """
        if not gamma:
            return ChannelForm(Fraction(0), beta)
        x = self.rationalised()
        centre = total(x.b0, -mean) if mean else x.b0
        return ChannelForm(product(gamma, x.a), beta, product(gamma, centre) if centre else centre, v)

    def alpha(self) -> Fraction:
        """α = a·r, exact where r is rational, otherwise to 192 bits."""
        return self.rationalised().a

    def beta(self) -> Fraction:
        """β = b0 + b1·r, exact where r is rational, otherwise to 192 bits."""
        return self.rationalised().b0

    def without_offset(self) -> ChannelForm:
        """The same scale with β = 0."""
        return ChannelForm(self.a, v=self.v)
