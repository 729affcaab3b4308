"""What a program's manifest says of one operation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layer:
    """What became of one operation: kernel family, the reason for it, cost and weight width.

    `macs` are the convolution's multiply-accumulates, `executed_macs` those that the kernel does for them.
    `choice` is what the kernel was built with (`Choice.to_json`), None where there is nothing to choose;
    `tuned` where that comes from: "task" a record of this kernel, "shape" one of the same convolution with
    another epilogue, "" the cost model. `weight_bytes` (as expanded for the kernel), `input_bytes` (all
    tensors read) and `output_bytes` are what one run moves.
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
