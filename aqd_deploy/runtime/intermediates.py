"""What the kernels of a program write while it runs: tensors of the integer file, copied call by call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

_BORDER = ":nchw"


class ResultCopies:
    """A virtual machine instrument that copies the results of every call of a kernel.

    `layers` are the manifest's: the `results` of a layer are the last arguments of its call, and say which
    pixels of [pixels..., C] are which tensor.
    """

    def __init__(self, layers: Sequence[dict[str, Any]]) -> None:
        self.tensors: dict[str, np.ndarray] = {}
        self.calls = 0
        self._layers = layers

    def __call__(self, _function: Any, symbol: str, before: bool, _result: Any, *arguments: Any) -> int:
        if symbol.startswith("vm.builtin.") or before:
            return 0
        if self.calls < len(self._layers):
            results = self._layers[self.calls].get("results", [])
            for parts, tensor in zip(results, arguments[len(arguments) - len(results) :], strict=True):
                self._copy(parts, np.from_dlpack(tensor))
        self.calls += 1
        return 0

    def _copy(self, parts: Sequence[dict[str, Any]], array: np.ndarray) -> None:
        """An output of the network is [1, C, H, W] already, everything else [H, W, C] or a stack."""
        for part in parts:
            name = part["tensor"].removesuffix(_BORDER)
            if array.ndim == 4:
                self.tensors[name] = array.copy()
                continue
            height, width = part["height"], part["width"]
            pixels = array.reshape(-1, array.shape[-1])[part["first"] : part["first"] + height * width]
            self.tensors[name] = pixels.reshape(height, width, -1).transpose(2, 0, 1)[None].copy()
