"""Exact integer Winograd convolution: the transforms, when they are exact, and where transformed weights lie.

A form computes tiles of outputs with one line of `winograd_lines` along columns and one along rows:
Y = A·((G·g·Gᵀ) ⊙ (B·d·Bᵀ))·Aᵀ. Products are integers and their sum is an exact multiple of the divisor, so
only this must be proven (`exact_forms`):

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

from dataclasses import dataclass

import numpy as np

from aqd_deploy.errors import ShapeError
from aqd_deploy.kernels.spec import ConvSpec
from aqd_deploy.kernels.winograd_lines import LINES, Line, Values

# What makes signed bytes unsigned.
SHIFT = 128


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
        return self.vertical.products * self.horizontal.products

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

    def weigh(self, weights: np.ndarray) -> np.ndarray:
        """int16 [positions, ...] of weights [..., 3, 3]."""
        taps = np.ascontiguousarray(np.moveaxis(self.base(weights), (-2, -1), (0, 1)))
        return np.stack(self.transform_weights([[taps[i, j] for j in range(3)] for i in range(3)]))

    def transform_weights(self, taps: list[Values]) -> Values:
        """The transformed weight of every position, row by row, of 3x3 taps."""
        columns = [self.vertical.weigh([row[j] for row in taps]) for j in range(3)]
        rows = zip(*columns, strict=True)
        return [value for row in rows for value in self.horizontal.weigh(list(row))]

    def sample_ranges(self, lowest: int, highest: int) -> tuple[np.ndarray, np.ndarray]:
        """The interval of each position's transformed activation where the tile lies in [lowest, highest]:
        its ends, int64 [positions].
        """
        both = np.einsum("ai,bj->abij", self.vertical.spread_matrix, self.horizontal.spread_matrix)
        flat = both.reshape(self.positions, -1)
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
    transformed = form.weigh(weights)
    if transformed.min(initial=0) < -128 or transformed.max(initial=0) > 127:
        return False
    largest = int(max(-low.min(), high.max())) * 128 * weights.shape[1]
    growth = (
        np.abs(form.vertical.gather_matrix).sum(1).max() * np.abs(form.horizontal.gather_matrix).sum(1).max()
    )
    return largest * int(growth) < 2**31


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


@dataclass(frozen=True)
class WinogradLayout:
    """Transformed weights [items, positions, steps, blocks, lanes, dot], int8 or, where the form is wide,
    int16, then int32 start values [items, positions, blocks, lanes]; as bytes, one flat int8 tensor.

    An item is `blocks` vectors of output channels that meet a sample together. The start value of a position
    and output channel is −shift·Σ of its transformed weights: activations are shifted to be unsigned
    (`Form.shifts`). Zeros where channels are padded. Transformed are the weights int8 [out, in, 3, 3], or
    2w + 1 where `odd`.
    """

    form: str
    out_channels: int
    in_channels: int
    lanes: int
    dot: int
    blocks: int
    shifts: tuple[int, ...]
    odd: bool = False

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
    def dtype(self) -> str:
        """The type of a transformed weight."""
        return "int16" if FORMS[self.form].wide else "int8"

    @property
    def vector_bytes(self) -> int:
        """Weights of one step of one block."""
        return self.lanes * self.dot * (2 if FORMS[self.form].wide else 1)

    @property
    def start_offset(self) -> int:
        """Where the start values begin, in bytes."""
        return FORMS[self.form].positions * self.items * self.blocks * self.steps * self.vector_bytes

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
        flat = form.weigh(true_weights(weights, self.odd)).reshape(
            form.positions, self.out_channels, self.in_channels
        )
        padded[:, : self.out_channels, : self.in_channels] = flat
        split = padded.reshape(form.positions, self.items, self.blocks, self.lanes, self.steps, self.dot)
        products = split.transpose(1, 0, 4, 2, 3, 5).astype(self.dtype)
        shifts = np.array(self.shifts).reshape(-1, 1, 1, 1)
        starts = (-shifts * split.sum(axis=(4, 5))).transpose(1, 0, 2, 3)
        return np.concatenate(
            [products.reshape(-1).view(np.int8), starts.astype("<i4").reshape(-1).view(np.int8)]
        )
