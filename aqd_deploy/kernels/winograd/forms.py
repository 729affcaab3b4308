"""Exact integer Winograd convolution: the transforms, and when they are exact.

A form computes tiles of outputs with one line of `transforms` along columns and one along rows:
Y = A·((G·g·Gᵀ) ⊙ (B·d·Bᵀ))·Aᵀ. Values that are complex in one direction take three real products (Gauss): of
(a + ib)(c + ie) with k₁ = c(a + b), k₂ = a(e − c), k₃ = b(c + e) the real part is k₁ − k₃, the imaginary one
k₁ + k₂. Those that are complex in both, a + i₁b + i₂c + i₁i₂d, are two complex numbers, i₁ = i₂ = i and
i₁ = −i₂ = i: (a − d) + i(b + c) and (a + d) + i(b − c). They take six products, not nine; C4 twice has
16 + 8·3 + 6 = 46.

Products are integers and their sum is an exact multiple of the divisor, so only this must be proven
(`exact_forms`):

- The transformed operands fit what dot products take: 8 bits, or 16 where the form is `wide`. An activation
  grows by the growth of both lines: 4 bits become 4·15 with F2 twice and 16·15 with C4 twice, which just fits
  8 bits; 8 bits with F4 twice fit 16.
- No sum leaves int32; in wide forms sums may wrap, as long as the convolution times the power of two in the
  divisor fits: dividing by an odd number is a product modulo 2^32.

Where all weights are odd (AQD's grid) and their transforms do not fit, the transforms of (w − 1)/2 do, being
half as large: w = 2q + 1, so y = 2·conv(x, q) + Σ window(x). These are the `halved` forms.

No compiler is needed to read this module. After Lavin and Gray, "Fast Algorithms for Convolutional Neural
Networks" (CVPR 2016).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np

from aqd_deploy.kernels.contract.spec import ConvSpec
from aqd_deploy.kernels.winograd.transforms import LINES, Line, Values, doubled

# What makes signed bytes unsigned.
SHIFT = 128
# Gives intermediate values a name, where they are expressions.
Keep = Callable[[Values], Values]


def _sample_parts(real: Any, imaginary: Any) -> Values:
    """a + b, a, b: what an activation brings to the products k₁, k₂, k₃."""
    return [real + imaginary, real, imaginary]


def _weight_parts(real: Any, imaginary: Any) -> Values:
    """c, e − c, c + e: what a weight brings."""
    return [real, imaginary - real, real + imaginary]


def _product(at: Callable[[int], Any], position: int) -> Values:
    """Real and imaginary part of the three products from `position` on."""
    first = at(position)
    return [first - at(position + 2), first + at(position + 1)]


@dataclass(frozen=True)
class Form:
    """The line `down` along columns and `across` along rows; `halved` works on q = (w − 1)/2, `wide` on
    operands of 16 bits.
    """

    name: str
    down: str
    across: str
    halved: bool = False
    wide: bool = False

    @property
    def vertical(self) -> Line:
        return LINES[self.down]

    @property
    def horizontal(self) -> Line:
        return LINES[self.across]

    @property
    def rows(self) -> int:
        """Outputs of a tile, from top to bottom."""
        return self.vertical.outputs

    @property
    def columns(self) -> int:
        """Outputs of a tile, from left to right."""
        return self.horizontal.outputs

    @property
    def positions(self) -> int:
        """Products a tile and channel pair."""
        down, across = self.vertical, self.horizontal
        real = down.reals * across.reals
        return real + 3 * (down.reals * across.complex + down.complex * across.reals) + 6 * self._twice

    @property
    def _twice(self) -> bool:
        """Whether there are values that are complex in both directions."""
        return self.vertical.complex and self.horizontal.complex

    @property
    def saving(self) -> float:
        """How many times fewer products than a direct convolution has."""
        return 9 * self.rows * self.columns / self.positions

    @property
    def divisor(self) -> int:
        return self.vertical.divisor * self.horizontal.divisor

    def base(self, weights: np.ndarray) -> np.ndarray:
        """The weights that are transformed, int16: q = (w − 1)/2 where halved."""
        wide = weights.astype(np.int16)
        return (wide - 1) >> 1 if self.halved else wide

    def transformed_filters(self, weights: np.ndarray) -> np.ndarray:
        """int16 [positions, ...] of weights [..., 3, 3]."""
        taps = np.ascontiguousarray(np.moveaxis(self.base(weights), (-2, -1), (0, 1)))
        return np.stack(self.filter_transform([[taps[i, j] for j in range(3)] for i in range(3)]))

    def filter_transform(self, taps: list[Values]) -> Values:
        """The transformed weight of every position, of 3x3 taps."""
        columns = [self.vertical.filter_transform([row[j] for row in taps]) for j in range(3)]
        rows = zip(*columns, strict=True)
        return list(
            self._operands((self.horizontal.filter_transform(list(row)) for row in rows), _weight_parts)
        )

    def input_transform(self, tile: list[Values], keep: Keep = list) -> Iterator[Any]:
        """The transformed activation of every position, of a tile's samples [rows + 2, columns + 2]; `keep`
        gives values that are used more than once a name.
        """
        columns = [
            keep(self.vertical.input_transform([row[j] for row in tile])) for j in range(self.horizontal.size)
        ]
        rows = zip(*columns, strict=True)
        return self._operands(
            (keep(self.horizontal.input_transform(list(row))) for row in rows), _sample_parts, keep
        )

    def _operands(
        self, rows: Iterable[Values], parts: Callable[[Any, Any], Values], keep: Keep = list
    ) -> Iterator[Any]:
        """One side of every product: values that are real in both directions as they are, `parts` of the
        complex ones.
        """
        reals, rows = self.horizontal.reals, iter(rows)
        for row in islice(rows, self.vertical.reals):
            yield from row[:reals]
            if self.horizontal.complex:
                yield from parts(*row[reals:])
        if self.vertical.complex:
            real, imaginary = rows
            for pair in zip(real[:reals], imaginary[:reals], strict=True):
                yield from parts(*pair)
            if self.horizontal.complex:
                (a, c), (b, d) = real[reals:], imaginary[reals:]
                for number in ((a - d, b + c), (a + d, b - c)):
                    yield from parts(*keep(list(number)))

    def output_columns(self, at: Callable[[int], Any], keep: Keep = list) -> list[Values]:
        """Products summed along columns, [values across][rows]; `at` loads the product of a position."""
        down, across = self.vertical, self.horizontal
        step = across.reals + 3 * across.complex
        below = down.reals * step
        columns = []
        for j in range(across.reals):
            column = [at(i * step + j) for i in range(down.reals)]
            if down.complex:
                column += [doubled(part) for part in _product(at, below + 3 * j)]
            columns.append(keep(down.output_transform(column)))
        if across.complex:
            pairs = [keep(_product(at, i * step + across.reals)) for i in range(down.reals)]
            if down.complex:
                pairs += self._twice_complex(at, below + 3 * across.reals, keep)
            columns += [keep(down.output_transform([pair[part] for pair in pairs])) for part in range(2)]
        return columns

    @staticmethod
    def _twice_complex(at: Callable[[int], Any], position: int, keep: Keep) -> list[Values]:
        """2a, 2c and 2b, 2d of a value that is complex in both directions."""
        (real, imaginary), (other_real, other_imaginary) = (
            keep(_product(at, position)),
            keep(_product(at, position + 3)),
        )
        return [
            [real + other_real, imaginary - other_imaginary],
            [imaginary + other_imaginary, other_real - real],
        ]

    def output_row(self, values: Values) -> Values:
        """`divisor` times a row of outputs, of what `output_columns` returns for that row."""
        reals = self.horizontal.reals
        return self.horizontal.output_transform(values[:reals] + [doubled(part) for part in values[reals:]])

    @cached_property
    def input_matrix(self) -> np.ndarray:
        """`input_transform` as int64 [positions, rows + 2, columns + 2]."""
        size = (self.vertical.size, self.horizontal.size)
        units = np.eye(size[0] * size[1], dtype=np.int64).reshape(*size, -1)
        return np.stack(list(self.input_transform([list(row) for row in units]))).reshape(
            self.positions, *size
        )

    @cached_property
    def output_matrix(self) -> np.ndarray:
        """`divisor` times the outputs of products, int64 [rows, columns, positions]."""
        columns = self.output_columns(list(np.eye(self.positions, dtype=np.int64)).__getitem__)
        return np.stack([self.output_row([column[y] for column in columns]) for y in range(self.rows)])

    def sample_ranges(self, lowest: int, highest: int) -> tuple[np.ndarray, np.ndarray]:
        """The interval of each position's transformed activation where the tile lies in [lowest, highest]:
        its ends, int64 [positions].
        """
        flat = self.input_matrix.reshape(self.positions, -1)
        positive, negative = np.maximum(flat, 0).sum(1), np.minimum(flat, 0).sum(1)
        return positive * lowest + negative * highest, positive * highest + negative * lowest

    def shifts(self, lowest: int, highest: int) -> np.ndarray:
        """What is added to each position's activations so that bytes hold them unsigned, int64 [positions]:
        128 where that is enough, which most positions share. 0 where wide.
        """
        low, high = self.sample_ranges(lowest, highest)
        if self.wide:
            return np.zeros_like(low)
        return np.where((low >= -SHIFT) & (high < SHIFT), SHIFT, -low)


def _forms(name: str, down: str, across: str) -> tuple[Form, Form]:
    return Form(name, down, across), Form(name + "_halved", down, across, halved=True)


# In the order in which they are preferred: fewer products first, then without window sums.
FORMS = {
    form.name: form
    for form in (
        Form("f4x4_wide", "f4", "f4", wide=True),
        *_forms("f3x4", "f3", "f4"),
        *_forms("f2x4", "f2", "f4"),
        *_forms("c4x4", "c4", "c4"),
        *_forms("f2x2", "f2", "f2"),
    )
}


def may_winograd(spec: ConvSpec) -> bool:
    """3x3, stride 1, one group, zero padding: the geometry that the forms compute."""
    return (spec.kernel, spec.strides, spec.dilations, spec.group) == ((3, 3), (1, 1), (1, 1), 1) and not any(
        spec.pad_values or ()
    )


def exact_forms(weights: np.ndarray, input_range: tuple[int, int] | None) -> tuple[str, ...]:
    """Names of the forms that are exact for `weights` [O, I, 3, 3], any integers (`true_weights`), and
    activations in `input_range`.

    Exact means what the module says. Zero padding counts as an activation. None, an unknown range, has no
    exact form.
    """
    if input_range is None or weights.ndim != 4 or weights.shape[2:] != (3, 3):
        return ()
    return tuple(form.name for form in FORMS.values() if _is_exact(form, weights, input_range))


def true_weights(weights: np.ndarray, odd: bool) -> np.ndarray:
    """int16: `weights` int8, or 2w + 1 where `odd` (`ConvSpec.odd`)."""
    wide = weights.astype(np.int16)
    return 2 * wide + 1 if odd else wide


def padded_range(input_range: tuple[int, int]) -> tuple[int, int]:
    """The interval with the zeros of the padding."""
    return min(input_range[0], 0), max(input_range[1], 0)


def _is_exact(form: Form, weights: np.ndarray, input_range: tuple[int, int]) -> bool:
    if form.halved and not np.all(weights & 1):
        return False
    interval = padded_range(input_range)
    low, high = form.sample_ranges(*interval)
    if form.wide:
        return bool(low.min() >= -(2**15) and high.max() < 2**15) and _fits_wrapped(form, weights, interval)
    shifts = form.shifts(*interval)
    if (low + shifts).min() < 0 or (high + shifts).max() > 255:
        return False
    transformed = form.transformed_filters(weights)
    if transformed.min(initial=0) < -128 or transformed.max(initial=0) > 127:
        return False
    largest = int(max(-low.min(), high.max())) * 128 * weights.shape[1]
    return largest * int(np.abs(form.output_matrix).sum(2).max()) < 2**31


def _fits_wrapped(form: Form, weights: np.ndarray, interval: tuple[int, int]) -> bool:
    """Whether results times the power of two in the divisor fit int32."""
    even = form.divisor & -form.divisor
    wide = weights.astype(np.int64)
    positive = np.maximum(wide, 0).sum(axis=(1, 2, 3))
    negative = np.minimum(wide, 0).sum(axis=(1, 2, 3))
    lowest, highest = interval
    high = (positive * highest + negative * lowest).max(initial=0)
    low = (positive * lowest + negative * highest).min(initial=0)
    return bool(low * even >= -(2**31) and high * even < 2**31)
