"""Reads a Darknet .weights: float32 numbers one after the other, without names or lengths.

The header is int32 major, minor and revision, then how many images training has seen: 8 bytes where
major·10 + minor is at least 2, else 4. Everything is little-endian.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from aqd_deploy.errors import CheckpointError
from aqd_deploy.inputs import GIB, FileKind

WEIGHTS_FILE = FileKind("Darknet weights", "a .weights file", 2 * GIB - 1, CheckpointError)
_LARGEST_VERSION = 999
"""From 1000 on, Darknet takes the weights of connected layers as transposed: nobody writes such files."""


class Weights:
    """The numbers of a file, taken from its beginning to its end."""

    def __init__(self, path: Path) -> None:
        """Raises CheckpointError for a file that cannot be read or has no such header."""
        self.path = path
        self._data = WEIGHTS_FILE.read(path)
        if len(self._data) < 16:
            raise self._refused("ends in its header", f"{len(self._data)} bytes", "16 bytes or more")
        version = struct.unpack("<3i", self._data[:12])
        if not all(0 <= each <= _LARGEST_VERSION for each in version):
            shown = ", ".join(map(str, version))
            raise self._refused(
                "has another header than Darknet writes at byte 0", f"version {shown}",
                f"three numbers from 0 to {_LARGEST_VERSION}",
            )  # fmt: skip
        major, minor, _ = version
        self._offset = 20 if major * 10 + minor >= 2 else 16

    def take(self, what: str, *shape: int) -> np.ndarray:
        """The next numbers, float32 of this shape; `what` names them. Raises CheckpointError where the file
        ends before them, or has NaN or infinity there.
        """
        count = int(np.prod(shape, dtype=np.int64))
        end, size = self._offset + 4 * count, len(self._data)
        if end > size:
            raise self._refused(
                f"ends in the {what}", f"{size} bytes", f"{end} bytes or more: the cfg asks for {count} "
                f"numbers at byte {self._offset}",
            )  # fmt: skip
        values = np.frombuffer(self._data, "<f4", count, self._offset).astype(np.float32)
        strange = np.flatnonzero(~np.isfinite(values))
        if strange.size:
            raise self._refused(
                f"has a number that is not finite at byte {self._offset + 4 * int(strange[0])}, in {what}",
                values[strange[0]], "finite numbers",
            )  # fmt: skip
        self._offset = end
        return values.reshape(shape)

    def check_end(self) -> None:
        """CheckpointError where numbers are left: the file is of another cfg."""
        left = len(self._data) - self._offset
        if left:
            raise self._refused(
                f"has {left} bytes behind the last layer of the cfg, at byte {self._offset}",
                f"{len(self._data)} bytes", f"{self._offset} bytes",
            )  # fmt: skip

    def _refused(self, what: str, received: object, valid: str) -> CheckpointError:
        return CheckpointError(
            f"{self.path} {what}", received=received, valid=valid,
            next_command="the same command with the weights that were trained with this very cfg",
        )  # fmt: skip
