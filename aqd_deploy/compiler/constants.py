"""Constants of epilogues: those of one type in one pool, stored as bit planes (`storage.bit_planes`)."""

from __future__ import annotations

import numpy as np

from aqd_deploy.kernels.storage.bit_planes import FRAME, Frames, encode


class ConstantPool:
    """Arrays of one dtype, int32 or int64, one behind the other; each begins with a frame."""

    def __init__(self, dtype: str) -> None:
        self.dtype = np.dtype(dtype)
        self.size = 0
        self._arrays: dict[bytes, tuple[int, np.ndarray]] = {}

    def add(self, array: np.ndarray) -> int:
        """The index of the first value of `array`; arrays of equal values lie in the pool once."""
        content = array.tobytes()
        if content not in self._arrays:
            flat = array.reshape(-1)
            padded = np.pad(flat, (0, -flat.size % FRAME), mode="edge")
            self._arrays[content] = self.size, padded
            self.size += padded.size
        return self._arrays[content][0]

    def frames(self) -> Frames:
        """All `size` values, stored."""
        return encode(np.concatenate([padded for _, padded in self._arrays.values()]))
