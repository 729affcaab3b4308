"""The compiler's own form of a network: a list of operations on channels-last tensors, each one kernel call.

Made from integer ONNX by `aqd_deploy.compiler.planning`, turned into Relax by
`aqd_deploy.compiler.relax_module`. Tensors are named as in the ONNX file; batch is 1 everywhere, so a
tensor is [H, W, C]. Several maps of one tensor, a stack, are [pixels, 1, C].
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from aqd_deploy.integer.types import TensorType
from aqd_deploy.kernels.contract.spec import ConvSpec, Epilogue, StoreInPlace

# A kernel's parameter: the name of a tensor of the plan, or a small constant ([C] or [steps, C]).
Operand = str | np.ndarray


@dataclass(frozen=True, eq=False)
class Conv:
    """A convolution with its epilogue; `weight` is a key of `Plan.weights`, `operands` as in `Epilogue`."""

    name: str
    input: str
    weight: str
    spec: ConvSpec
    epilogue: Epilogue
    operands: tuple[Operand, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Pointwise:
    """An epilogue on a tensor (uint8, int8 or int32) that no convolution produces."""

    name: str
    input: str
    epilogue: Epilogue
    operands: tuple[Operand, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class MaxPool:
    """Maximum over windows; `pads` (top, left, bottom, right) never win."""

    name: str
    input: str
    output: str
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]


@dataclass(frozen=True)
class Resize:
    """Nearest upsampling by whole factors (rows, columns)."""

    name: str
    input: str
    output: str
    factors: tuple[int, int]


@dataclass(frozen=True)
class Pad:
    """Padding (top, left, bottom, right) with one value a channel."""

    name: str
    input: str
    output: str
    pads: tuple[int, int, int, int]
    values: tuple[int, ...]


@dataclass(frozen=True)
class Concat:
    """Concatenation along channels."""

    name: str
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True)
class Stack:
    """Copies maps one after the other into one tensor [pixels, 1, C]."""

    name: str
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True)
class Unstack:
    """Copies maps out of a stack; `starts` are their first pixels."""

    name: str
    input: str
    starts: tuple[int, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class ToChannelsLast:
    """A network input [1, C, H, W] → the tensor `output`; `input` is `border(output)`."""

    name: str
    input: str
    output: str


@dataclass(frozen=True)
class ToChannelsFirst:
    """Maps of `input` that begin at pixels `starts` → network outputs [1, C, H, W] (`border`)."""

    name: str
    input: str
    starts: tuple[int, ...]
    outputs: tuple[str, ...]


Operation = (
    Conv | Pointwise | MaxPool | Resize | Pad | Concat | Stack | Unstack | ToChannelsLast | ToChannelsFirst
)


def border(name: str) -> str:
    """Name of the [1, C, H, W] form of the network's input or output `name`."""
    return f"{name}:nchw"


def operation_inputs(operation: Operation) -> list[str]:
    """Names of the tensors an operation reads."""
    if isinstance(operation, Concat | Stack):
        return list(operation.inputs)
    names = [operation.input]
    if isinstance(operation, Conv | Pointwise):
        names += [operand for operand in operation.operands if isinstance(operand, str)]
    return names


def operation_outputs(operation: Operation) -> list[str]:
    """Names of the tensors an operation writes."""
    if isinstance(operation, Conv | Pointwise | Unstack | ToChannelsFirst):
        return list(operation.outputs)
    return [operation.output]


def written_over(operation: Operation) -> dict[str, str]:
    """Of the outputs that lie in the bytes of an input (`StoreInPlace`), which input that is."""
    if not isinstance(operation, Conv):
        return {}
    pairs = zip(operation.outputs, operation.epilogue.stores, strict=False)
    added = [operand for operand in operation.operands if isinstance(operand, str)]
    return {name: added[0] for name, store in pairs if isinstance(store, StoreInPlace)}


@dataclass
class Plan:
    """Operations in execution order, the type of every tensor, the int8 weights [O, I, kh, kw] by name.

    `slices`: tensors that exist only as maps of a stack: its name and their first pixel in it.
    """

    inputs: list[str]
    outputs: list[str]
    operations: list[Operation]
    tensors: dict[str, TensorType]
    weights: dict[str, np.ndarray]
    slices: dict[str, tuple[str, int]] = field(default_factory=dict)
