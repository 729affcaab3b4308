"""Exact integer Winograd convolution: the transforms, when they are exact, and where transformed weights lie.

F(m, 3) computes m neighbouring outputs of a 3-tap filter with m + 2 products instead of 3m:
y = A·((G·g) ⊙ (B·d)) in one dimension, the same along rows and columns in two. B and A are integers; G is
made so by a factor for each row, which A takes back up to one common divisor. So the products are integers
and A·(…) is an exact multiple of the divisor. What must be proven is only that the transformed operands fit
the 8 bits that dot products take: `exact_forms`.

- F(2): divisor 2. B's rows have one +1 and one −1 or two +1: activations of b bits become b + 1 (two
  dimensions: b + 2) bits and a sign. Weights grow up to 3-fold (9-fold).
- F(4): divisor 24. Activations grow up to 10-fold, weights 7-fold: for 2-bit networks in one dimension.

Where all weights are odd (AQD's grid) and their transforms do not fit, the transforms of (w − 1)/2 do, being
half as large: w = 2q + 1, so y = 2·conv(x, q) + Σ window(x). These are the `halved` forms.

No compiler is needed to read this module. After Lavin and Gray, "Fast Algorithms for Convolutional Neural
Networks" (CVPR 2016).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from aqd_deploy.errors import ShapeError
from aqd_deploy.kernels.spec import ConvSpec

Values = list[Any]


@dataclass(frozen=True)
class Line:
    """F(`outputs`, 3) along one dimension.

    The three functions are linear and work on anything that can be added: numpy arrays, expressions.
    `spread(d)` is B·d for outputs + 2 samples, `weigh(g)` the scaled G·g of 3 taps, `gather(m)` is A·m for
    outputs + 2 products, `divisor` times the result.
    """

    outputs: int
    divisor: int
    spread: Callable[[Values], Values]
    weigh: Callable[[Values], Values]
    gather: Callable[[Values], Values]

    @property
    def size(self) -> int:
        return self.outputs + 2

    @cached_property
    def spread_matrix(self) -> np.ndarray:
        """B, int64 [size, size]."""
        return _matrix(self.spread, self.size)

    @cached_property
    def weigh_matrix(self) -> np.ndarray:
        """G with its factors, int64 [size, 3]."""
        return _matrix(self.weigh, 3)

    @cached_property
    def gather_matrix(self) -> np.ndarray:
        """A times the divisor, int64 [outputs, size]."""
        return _matrix(self.gather, self.size)


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


LINES = {2: Line(2, 2, _spread2, _weigh2, _gather2), 4: Line(4, 24, _spread4, _weigh4, _gather4)}


@dataclass(frozen=True)
class Form:
    """F(rows, 3) along rows and F(columns, 3) along columns; `halved` works on q = (w − 1)/2."""

    name: str
    rows: int
    columns: int
    halved: bool

    @property
    def vertical(self) -> Line:
        return LINES[self.rows]

    @property
    def horizontal(self) -> Line:
        return LINES[self.columns]

    @property
    def positions(self) -> int:
        """Products a tile and channel pair."""
        return self.vertical.size * self.horizontal.size

    @property
    def divisor(self) -> int:
        return self.vertical.divisor * self.horizontal.divisor

    def base(self, weights: np.ndarray) -> np.ndarray:
        """The weights that are transformed, int16: q = (w − 1)/2 where halved."""
        wide = weights.astype(np.int16)
        return (wide - 1) >> 1 if self.halved else wide

    def weigh(self, weights: np.ndarray) -> np.ndarray:
        """int16 [positions, ...] of weights int8 [..., 3, 3]."""
        taps = np.ascontiguousarray(np.moveaxis(self.base(weights), (-2, -1), (0, 1)))
        return np.stack(self.transform_weights([[taps[i, j] for j in range(3)] for i in range(3)]))

    def transform_weights(self, taps: list[Values]) -> Values:
        """The transformed weight of every position, row by row, of 3x3 taps."""
        columns = [self.vertical.weigh([row[j] for row in taps]) for j in range(3)]
        rows = zip(*columns, strict=True)
        return [value for row in rows for value in self.horizontal.weigh(list(row))]

    def sample_range(self, lowest: int, highest: int) -> tuple[int, int]:
        """The interval of a transformed activation whose tile lies in [lowest, highest]."""
        both = np.einsum("ai,bj->abij", self.vertical.spread_matrix, self.horizontal.spread_matrix)
        flat = both.reshape(self.positions, -1)
        positive, negative = np.maximum(flat, 0).sum(1), np.minimum(flat, 0).sum(1)
        return (
            int((positive * lowest + negative * highest).min()),
            int((positive * highest + negative * lowest).max()),
        )


# In the order in which they are preferred: fewer products first, then without window sums.
FORMS = {
    form.name: form
    for form in (
        Form("f2x4", 2, 4, False),
        Form("f2x4_halved", 2, 4, True),
        Form("f2x2", 2, 2, False),
        Form("f2x2_halved", 2, 2, True),
    )
}


def may_winograd(spec: ConvSpec) -> bool:
    """3x3, stride 1, one group, zero padding, plain weights: the geometry that the forms compute."""
    return (
        (spec.kernel, spec.strides, spec.dilations, spec.group) == ((3, 3), (1, 1), (1, 1), 1)
        and not spec.odd
        and not any(spec.pad_values or ())
    )


def exact_forms(weights: np.ndarray, input_range: tuple[int, int] | None) -> tuple[str, ...]:
    """Names of the forms that are exact for `weights` int8 [O, I, 3, 3] and activations in `input_range`.

    Exact means: every transformed weight and activation fits in −128…127 and no sum leaves int32. Zero
    padding counts as an activation. None, an unknown range, has no exact form.
    """
    if input_range is None or weights.ndim != 4 or weights.shape[2:] != (3, 3):
        return ()
    return tuple(form.name for form in FORMS.values() if _is_exact(form, weights, input_range))


def _is_exact(form: Form, weights: np.ndarray, input_range: tuple[int, int]) -> bool:
    if form.halved and not np.all(weights & 1):
        return False
    low, high = form.sample_range(min(input_range[0], 0), max(input_range[1], 0))
    if low < -128 or high > 127:
        return False
    transformed = form.weigh(weights)
    if transformed.min(initial=0) < -128 or transformed.max(initial=0) > 127:
        return False
    largest = max(-low, high) * 127 * weights.shape[1]
    spread = (
        np.abs(form.vertical.gather_matrix).sum(1).max() * np.abs(form.horizontal.gather_matrix).sum(1).max()
    )
    return largest * int(spread) < 2**31


@dataclass(frozen=True)
class WinogradLayout:
    """Transformed weights int8 [items, positions, steps, blocks, lanes, dot], then int32 start values
    [items, positions, blocks, lanes] as bytes; one flat int8 tensor.

    An item is `blocks` vectors of output channels that meet a sample together. The start value of a position
    and output channel is −128·Σ of its transformed weights: activations are shifted by 128 to be unsigned.
    Zeros where channels are padded.
    """

    form: str
    out_channels: int
    in_channels: int
    lanes: int
    dot: int
    blocks: int

    @property
    def steps(self) -> int:
        return -(-self.in_channels // self.dot)

    @property
    def items(self) -> int:
        return -(-self.out_channels // (self.lanes * self.blocks))

    @property
    def channels(self) -> int:
        """Output channels with those that fill the last item."""
        return self.items * self.blocks * self.lanes

    @property
    def start_offset(self) -> int:
        """Where the start values begin."""
        return FORMS[self.form].positions * self.channels * self.steps * self.dot

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.start_offset + FORMS[self.form].positions * self.channels * 4,)

    def pack(self, weights: np.ndarray) -> np.ndarray:
        """Weights int8 [out, in, 3, 3] in this layout. Raises ShapeError on another shape."""
        if weights.shape != (self.out_channels, self.in_channels, 3, 3):
            expected = str((self.out_channels, self.in_channels, 3, 3))
            raise ShapeError("weights do not fit their layout", received=weights.shape, valid=expected)
        form = FORMS[self.form]
        padded = np.zeros((form.positions, self.channels, self.steps * self.dot), np.int64)
        flat = form.weigh(weights).reshape(form.positions, self.out_channels, self.in_channels)
        padded[:, : self.out_channels, : self.in_channels] = flat
        split = padded.reshape(form.positions, self.items, self.blocks, self.lanes, self.steps, self.dot)
        products = split.transpose(1, 0, 4, 2, 3, 5).astype(np.int8)
        starts = -128 * split.sum(axis=(4, 5)).transpose(1, 0, 2, 3)
        return np.concatenate([products.reshape(-1), starts.astype("<i4").reshape(-1).view(np.int8)])
