"""What a program's manifest says of one operation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from aqd_deploy.compiler.weights import EncodedWeight
from aqd_deploy.kernels.contract.choice import Choice
from aqd_deploy.kernels.contract.spec import ConvSpec


@dataclass(frozen=True)
class Part:
    """A tensor of the integer file in a result of a kernel, which holds it alone or stacked with others: its
    `height` times `width` pixels from `first` on.
    """

    tensor: str
    first: int
    height: int
    width: int


@dataclass(frozen=True)
class Layer:
    """What became of one operation: kernel family, the reason for it, cost and weight width.

    `macs` are the convolution's multiply-accumulates, `executed_macs` those that the kernel does for them.
    `choice` is what the kernel was built with (`Choice.to_json`), None where there is nothing to choose;
    `tuned` where that comes from: "task" a record of this kernel, "shape" one of the same convolution with
    another epilogue, "" the cost model. `weight_bytes` (as expanded for the kernel), `input_bytes` (all
    tensors read) and `output_bytes` are what one run moves. `results` are the last arguments of the call, in
    order: of each the tensors of the integer file that lie in it.
    """

    name: str
    operation: str
    kernel: str
    why: str
    output: tuple[int, int, int]
    macs: int = 0
    executed_macs: int = 0
    weight_bits: int = 0
    choice: dict[str, int | str] | None = None
    tuned: str = ""
    weight_bytes: int = 0
    input_bytes: int = 0
    output_bytes: int = 0
    results: tuple[tuple[Part, ...], ...] = ()


class ConvKernel(Protocol):
    """What a layer tells of the kernel of a convolution, whatever device it is for."""

    @property
    def name(self) -> str: ...

    @property
    def why(self) -> str: ...

    @property
    def choice(self) -> Choice: ...

    @property
    def executed_macs(self) -> int: ...


def conv_layer(
    name: str, spec: ConvSpec, weight: EncodedWeight, kernel: ConvKernel, weight_bytes: int, tuned: str = ""
) -> Layer:
    """The layer of a convolution, but for the bytes of its tensors."""
    return Layer(
        name,
        "conv",
        kernel.name,
        kernel.why,
        (spec.out_height, spec.out_width, spec.out_channels),
        spec.out_height * spec.out_width * int(np.prod(weight.shape)),
        kernel.executed_macs,
        weight.bits,
        kernel.choice.to_json(),
        tuned,
        weight_bytes=weight_bytes,
    )
