"""The compiler's own form of a network: a list of operations on channels-last tensors, each one kernel call.

Made from integer ONNX by `aqd_deploy.compiler.planning`, turned into Relax by
`aqd_deploy.compiler.relax_module`. Tensors are named as in the ONNX file; batch is 1 everywhere, so a
tensor is [H, W, C]. Several maps of one tensor, a stack, are [pixels, 1, C].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from aqd_deploy.integer.ranges import Interval, concatenate, union
from aqd_deploy.integer.types import TensorType
from aqd_deploy.kernels.contract.spec import ConvSpec, Epilogue, StoreInPlace

# A kernel's parameter: the name of a tensor of the plan, or a small constant ([C] or [steps, C]).
Operand = str | np.ndarray


class Operation(ABC):
    """One kernel call: what every pass over plans may ask of it."""

    name: str

    @property
    @abstractmethod
    def reads(self) -> tuple[str, ...]:
        """Names of the tensors it reads."""

    @property
    @abstractmethod
    def writes(self) -> tuple[str, ...]:
        """Names of the tensors it writes."""

    @property
    def parameters(self) -> list[np.ndarray]:
        """The constants that its kernel is called with, int32 or int64."""
        return []

    @property
    def written_over(self) -> dict[str, str]:
        """Of the outputs that lie in the bytes of an input, which input that is."""
        return {}

    def places(self, tensors: Mapping[str, TensorType]) -> list[tuple[str, str, int]]:
        """What a copy makes unnecessary where its memory allows it: (a map, the stack in which it could lie,
        its first byte there).
        """
        return []


class OneInput(Operation):
    """Reads `input`."""

    input: str

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.input,)


class ManyInputs(Operation):
    """Reads `inputs`."""

    inputs: tuple[str, ...]

    @property
    def reads(self) -> tuple[str, ...]:
        return self.inputs


class OneOutput(Operation):
    """Writes `output`."""

    output: str

    @property
    def writes(self) -> tuple[str, ...]:
        return (self.output,)


class ManyOutputs(Operation):
    """Writes `outputs`."""

    outputs: tuple[str, ...]

    @property
    def writes(self) -> tuple[str, ...]:
        return self.outputs


class Computation(ManyOutputs):
    """An operation that ends in an epilogue; `operands` as in `Epilogue`, its parameters among them."""

    input: str
    epilogue: Epilogue
    operands: tuple[Operand, ...]

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.input, *self.added)

    @property
    def added(self) -> tuple[str, ...]:
        """The tensors among the operands: the other sides of skip-adds and products."""
        return tuple(operand for operand in self.operands if isinstance(operand, str))

    @property
    def parameters(self) -> list[np.ndarray]:
        return [operand for operand in self.operands if not isinstance(operand, str)]


class Movement(Operation):
    """An operation without an epilogue."""

    @abstractmethod
    def interval(self, sources: Sequence[Interval]) -> Interval:
        """The interval of what it writes, from those of what it reads, per channel."""


class Rearrangement(Movement):
    """Writes values of its inputs only, those of a channel to the same channel."""

    def interval(self, sources: Sequence[Interval]) -> Interval:
        return union(sources)


@dataclass(frozen=True, eq=False)
class Conv(Computation):
    """A convolution with its epilogue; `weight` is a key of `Plan.weights`."""

    name: str
    input: str
    weight: str
    spec: ConvSpec
    epilogue: Epilogue
    operands: tuple[Operand, ...]
    outputs: tuple[str, ...]

    @property
    def written_over(self) -> dict[str, str]:
        """A `StoreInPlace` writes over the tensor that its skip-add adds, the only one."""
        pairs = zip(self.outputs, self.epilogue.stores, strict=False)
        return {name: self.added[0] for name, store in pairs if isinstance(store, StoreInPlace)}


@dataclass(frozen=True, eq=False)
class Pointwise(Computation):
    """An epilogue on a tensor (uint8, int8 or int32) that no convolution produces."""

    name: str
    input: str
    epilogue: Epilogue
    operands: tuple[Operand, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class MaxPool(OneInput, OneOutput, Rearrangement):
    """Maximum over windows; `pads` (top, left, bottom, right) never win."""

    name: str
    input: str
    output: str
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]


@dataclass(frozen=True)
class Resize(OneInput, OneOutput, Rearrangement):
    """Nearest upsampling by whole factors (rows, columns)."""

    name: str
    input: str
    output: str
    factors: tuple[int, int]


@dataclass(frozen=True)
class Pad(OneInput, OneOutput, Movement):
    """Padding (top, left, bottom, right) with one value a channel."""

    name: str
    input: str
    output: str
    pads: tuple[int, int, int, int]
    values: tuple[int, ...]

    def interval(self, sources: Sequence[Interval]) -> Interval:
        values = np.array(self.values, np.int64)
        return union([*sources, Interval(values, values)])


@dataclass(frozen=True)
class Concat(ManyInputs, OneOutput, Movement):
    """Concatenation along channels."""

    name: str
    inputs: tuple[str, ...]
    output: str

    def interval(self, sources: Sequence[Interval]) -> Interval:
        return concatenate(sources)


@dataclass(frozen=True)
class Slice(OneInput, OneOutput, Movement):
    """(first, step, count) of rows, columns and channels."""

    name: str
    input: str
    output: str
    rows: tuple[int, int, int]
    columns: tuple[int, int, int]
    channels: tuple[int, int, int]

    def interval(self, sources: Sequence[Interval]) -> Interval:
        first, step, count = self.channels
        return _of_channels(sources[0], first + step * np.arange(count))


@dataclass(frozen=True, eq=False)
class Gather(OneInput, OneOutput, Movement):
    """Channels in another order, by int32 `indices`."""

    name: str
    input: str
    output: str
    indices: np.ndarray

    @property
    def parameters(self) -> list[np.ndarray]:
        return [self.indices]

    def interval(self, sources: Sequence[Interval]) -> Interval:
        return _of_channels(sources[0], self.indices)


@dataclass(frozen=True, eq=False)
class DepthToSpace(OneInput, OneOutput, Movement):
    """Channel c at place i of a square of `blocksize`² pixels is the input's channel `first[i] + step·c`."""

    name: str
    input: str
    output: str
    blocksize: int
    first: tuple[int, ...]
    step: int

    def interval(self, sources: Sequence[Interval]) -> Interval:
        count = len(sources[0].lo) // len(self.first)
        return union([_of_channels(sources[0], at + self.step * np.arange(count)) for at in self.first])


@dataclass(frozen=True, eq=False)
class Rearrange(OneInput, OneOutput, Movement):
    """Element k is the input's element `indices[k]`; int32 [elements of the output], both counted in
    [H, W, C].
    """

    name: str
    input: str
    output: str
    indices: np.ndarray
    channels: int

    @property
    def parameters(self) -> list[np.ndarray]:
        return [self.indices]

    def interval(self, sources: Sequence[Interval]) -> Interval:
        named = self.indices.reshape(-1, self.channels) % len(sources[0].lo)
        return Interval(sources[0].lo[named].min(axis=0), sources[0].hi[named].max(axis=0))


@dataclass(frozen=True)
class SumPool(OneInput, OneOutput, Movement):
    """int32 sums over windows; the padding is `pad_value`."""

    name: str
    input: str
    output: str
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    pad_value: int

    def interval(self, sources: Sequence[Interval]) -> Interval:
        source, count = sources[0], self.kernel[0] * self.kernel[1]
        if any(self.pads):
            source = union([source, Interval.uniform(len(source.lo), self.pad_value, self.pad_value)])
        return Interval(source.lo * count, source.hi * count)


@dataclass(frozen=True)
class ResizeLinear(OneInput, OneOutput, Movement):
    """Linear upsampling by whole factors, times 2·fy·2·fx, as int32."""

    name: str
    input: str
    output: str
    factors: tuple[int, int]
    half_pixel: int

    def interval(self, sources: Sequence[Interval]) -> Interval:
        gain = 2 * self.factors[0] * 2 * self.factors[1]
        return Interval(sources[0].lo * gain, sources[0].hi * gain)


@dataclass(frozen=True)
class Stack(ManyInputs, OneOutput, Rearrangement):
    """Copies maps one after the other into one tensor [pixels, 1, C]."""

    name: str
    inputs: tuple[str, ...]
    output: str

    def places(self, tensors: Mapping[str, TensorType]) -> list[tuple[str, str, int]]:
        sizes = [tensors[name].bytes for name in self.inputs]
        return [(name, self.output, sum(sizes[:i])) for i, name in enumerate(self.inputs)]


@dataclass(frozen=True)
class Unstack(OneInput, ManyOutputs, Rearrangement):
    """Copies maps out of a stack; `starts` are their first pixels."""

    name: str
    input: str
    starts: tuple[int, ...]
    outputs: tuple[str, ...]

    def places(self, tensors: Mapping[str, TensorType]) -> list[tuple[str, str, int]]:
        pixel = tensors[self.input].bytes // tensors[self.input].height
        starts = zip(self.outputs, self.starts, strict=True)
        return [(name, self.input, start * pixel) for name, start in starts]


@dataclass(frozen=True)
class ToChannelsLast(OneInput, OneOutput, Rearrangement):
    """A network input [1, C, H, W] → the tensor `output`; `input` is `border(output)`."""

    name: str
    input: str
    output: str


@dataclass(frozen=True)
class ToChannelsFirst(OneInput, ManyOutputs, Rearrangement):
    """Maps of `input` that begin at pixels `starts` → network outputs [1, C, H, W] (`border`)."""

    name: str
    input: str
    starts: tuple[int, ...]
    outputs: tuple[str, ...]


def _of_channels(interval: Interval, channels: np.ndarray) -> Interval:
    return Interval(interval.lo[channels], interval.hi[channels])


def border(name: str) -> str:
    """Name of the [1, C, H, W] layout of the network's input or output `name`."""
    return f"{name}:nchw"


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
