"""The named tensors of a checkpoint of another framework, and which of them were asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from aqd_deploy.errors import CheckpointError


class Weights:
    """Tensors by name, float32. Remembers what was used, and what was wanted and is not there."""

    def __init__(self, tensors: Mapping[str, Tensor], owner: str) -> None:
        self.tensors, self.owner = tensors, owner
        self.used: set[str] = set()
        self.missing: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor; CheckpointError where it is not there."""
        return tuple(self._found(name).shape)

    def channels(self, convolution: str) -> tuple[int, int]:
        """Output and input channels of a convolution; CheckpointError where there is none of that name."""
        shape = self.shape(f"{convolution}.weight")
        if len(shape) != 4:
            raise CheckpointError(
                f"the tensor {convolution}.weight of {self.owner} is no convolution's", received=list(shape),
                valid="[out, in, height, width]",
            )  # fmt: skip
        return shape[0], shape[1]

    def take(self, name: str, shape: Iterable[int] | None = None) -> Tensor:
        """The tensor as float32; CheckpointError where it is not there, or has another shape than this."""
        if shape is not None:
            self.check(name, shape)
        self.used.add(name)
        return self._found(name).to(torch.float32)

    def check(self, name: str, shape: Iterable[int]) -> None:
        """Raise CheckpointError where a tensor is not there or has another shape than this."""
        tensor = self._found(name)
        if tuple(tensor.shape) != tuple(shape):
            raise CheckpointError(
                f"the tensor {name} of {self.owner} has another shape than its network",
                received=list(tensor.shape), valid=str(list(shape)),
            )  # fmt: skip

    def number(self, name: str) -> float:
        """The only number of a tensor. Raises what `take` does."""
        return float(self.take(name, [1] * len(self.shape(name))))

    def maybe(self, name: str, shape: Iterable[int], default: float) -> Tensor:
        """The tensor, or `default` everywhere, which is remembered as missing."""
        if name in self:
            return self.take(name, shape)
        self.missing.add(name)
        return torch.full(tuple(shape), default)

    def count(self, pattern: str) -> int:
        """How many tensors there are named `pattern` with 0, 1, ... in the place of {}."""
        number = 0
        while pattern.format(number) in self:
            number += 1
        return number

    def _found(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise CheckpointError(
                f"a tensor of the network is missing in {self.owner}", received=f"no {name}",
                valid="a complete checkpoint",
            )  # fmt: skip
        return self.tensors[name]
