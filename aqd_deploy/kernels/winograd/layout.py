"""Where transformed weights lie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aqd_deploy.errors import ShapeError
from aqd_deploy.kernels.winograd.forms import FORMS, true_weights


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
        flat = form.transformed_filters(true_weights(weights, self.odd)).reshape(
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
