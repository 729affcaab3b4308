"""Where each weight lies in memory: the packed layouts of the convolution kernels, and bit streams of weight
codes.

No compiler is needed to read this module: numpy packs, `unpack.py` emits the same as a TIR function.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aqd_deploy.errors import ShapeError


@dataclass(frozen=True)
class WeightLayout:
    """int8 [out/lanes, kh, segments, steps, lanes, dot], zeros where channels or taps are padded.

    Output channel o lies in block o // lanes at lane o % lanes. One kernel row is either one dense segment,
    whose index is k = kx·in_channels + ci (segments = 1), or one segment per kx with k = ci (segments = kw,
    needed where the horizontal dilation is not 1). k lies in step k // dot at position k % dot.

    `in_channels` counts the channels of one group. `lanes` output channels share one vector, `dot` products
    are added by one instruction. The steps of a segment are a multiple of `whole`, the last ones zeros.
    `doubled`: what lies there is 2w + 1.

    `fold` kernel rows lie in one, as its only segment: ky is row ky % fold of row ky // fold, and
    k = ((ky % fold)·kw + kx)·in_channels + ci.

    `codes`: how many neighbouring steps share their bytes. Of weights lowest + stride·code, `grid` being
    (lowest, stride), a byte then holds that many codes, the first step's in its lowest bits; the segments
    have no padding.
    """

    out_channels: int
    in_channels: int
    kernel: tuple[int, int]
    lanes: int
    dot: int
    dense: bool = True
    whole: int = 1
    doubled: bool = False
    fold: int = 1
    codes: int = 1
    grid: tuple[int, int] = (0, 1)

    @property
    def segments(self) -> int:
        return 1 if self.dense else self.kernel[1]

    @property
    def segment_length(self) -> int:
        """Weights of one output channel in one segment, without padding."""
        return self.in_channels * self.fold * (self.kernel[1] if self.dense else 1)

    @property
    def rows(self) -> int:
        """Kernel rows, folded."""
        return -(-self.kernel[0] // self.fold)

    @property
    def reduction(self) -> int:
        """Products in one output value."""
        return self.in_channels * self.kernel[0] * self.kernel[1]

    @property
    def steps(self) -> int:
        return -(-self.segment_length // (self.dot * self.whole)) * self.whole

    @property
    def blocks(self) -> int:
        return -(-self.out_channels // self.lanes)

    @property
    def shape(self) -> tuple[int, int, int, int, int, int]:
        return (self.blocks, self.rows, self.segments, self.steps // self.codes, self.lanes, self.dot)

    @property
    def code_bits(self) -> int:
        """Bits of a byte that a weight takes."""
        return 8 // self.codes

    def pack(self, weights: np.ndarray) -> np.ndarray:
        """Weights int8 [out, in, kh, kw] in this layout. Raises ShapeError on another shape."""
        expected = (self.out_channels, self.in_channels, *self.kernel)
        if weights.shape != expected:
            raise ShapeError("weights do not fit their layout", received=weights.shape, valid=str(expected))
        if self.doubled:
            weights = (2 * weights.astype(np.int16) + 1).astype(np.int8)
        missing = self.rows * self.fold - self.kernel[0]
        whole = np.pad(weights.transpose(0, 2, 3, 1), ((0, 0), (0, missing), (0, 0), (0, 0)))
        rows = whole.reshape(self.out_channels, self.rows, self.segments, self.segment_length)
        # Channels that fill a block have code 0.
        nothing = 0 if self.codes == 1 else self.grid[0]
        size = (self.blocks * self.lanes, *rows.shape[1:3], self.steps * self.dot)
        padded = np.full(size, nothing, np.int8)
        padded[: self.out_channels, :, :, : self.segment_length] = rows
        split = padded.reshape(self.blocks, self.lanes, self.rows, self.segments, self.steps, self.dot)
        steps = np.ascontiguousarray(split.transpose(0, 2, 3, 4, 1, 5))
        return steps if self.codes == 1 else self._together(steps)

    def _together(self, steps: np.ndarray) -> np.ndarray:
        """The codes of `codes` neighbouring steps in the bytes of one."""
        lowest, stride = self.grid
        found = ((steps.astype(np.int16) - lowest) // stride).astype(np.uint8) & ((1 << self.code_bits) - 1)
        shared = found.reshape(*self.shape[:4], self.codes, self.lanes, self.dot)
        shifts = np.arange(self.codes, dtype=np.uint8).reshape(-1, 1, 1) * np.uint8(self.code_bits)
        return np.bitwise_or.reduce(shared << shifts, axis=4).view(np.int8)


def pack_codes(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes 0..2^bits−1 of any shape, in C order, as a little-endian bit stream.

    Code i takes bits i·bits … (i+1)·bits−1 of the stream; stream bit j is bit j % 8 of byte j // 8. Returns
    uint8 [blob_size(codes.size, bits)].
    """
    flat = np.ascontiguousarray(codes, np.uint8).reshape(-1, 1)
    planes = (flat >> np.arange(bits, dtype=np.uint8)) & 1
    return np.packbits(planes.reshape(-1), bitorder="little")


def blob_size(count: int, bits: int) -> int:
    """Bytes of a bit stream of `count` codes."""
    return -(-count * bits // 8)
