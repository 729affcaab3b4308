"""Runs a tail (`integer.tail`) on the host: floats in, the network's own outputs out, by onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aqd_deploy.errors import MissingExtraError, ModelFileError
from aqd_deploy.integer.tail import read_tail, tail_path


class Tail:
    """A loaded tail; `outputs` are the shapes of its outputs by name, where a size may be no number."""

    def __init__(self, data: bytes, path: Path, threads: int | None = None) -> None:
        """`data` are the bytes of the file `path`. Raises ModelFileError where onnxruntime cannot load them,
        MissingExtraError where there is no onnxruntime.
        """
        try:
            from aqd_deploy.integer.files import parse_onnx
            from aqd_deploy.integer.reference import ReferenceRunner
        except ImportError as error:
            raise MissingExtraError(
                f"the tail {path} is run by onnxruntime, which is not installed",
                next_command="pip install onnxruntime",
            ) from error
        try:
            self._network = ReferenceRunner(parse_onnx(data, path), threads)
        except ModelFileError as error:
            raise ModelFileError(f"{path}: {error.what}", received=error.received) from error
        self.outputs = self._network.outputs

    @classmethod
    def beside(cls, owner: Path, manifest: dict[str, Any], threads: int | None = None) -> Tail | None:
        """The tail of the integer file or program `owner`, None where it has none.

        Raises ModelFileError where it is missing, damaged or of another network, and as making one does.
        """
        data = read_tail(owner, manifest)
        return None if data is None else cls(data, tail_path(owner), threads)

    def run(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Every output by name for float32 inputs by name; others than the tail's are let be.

        Raises ShapeError for an input that is missing or of another shape.
        """
        return self._network.run(values)
