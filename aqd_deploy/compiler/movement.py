"""Operations that are no convolution → their TIR kernels: one entry for each kind."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from aqd_deploy.compiler.plan import (
    Concat,
    MaxPool,
    Operation,
    Pad,
    Pointwise,
    Resize,
    Stack,
    TensorType,
    ToChannelsFirst,
    ToChannelsLast,
    Unstack,
)
from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.kernels.contract.backend import Backend

Types = Sequence[TensorType]


@dataclass(frozen=True)
class Movement:
    """`label` names the TIR function and the row in the manifest; `kernel(backend, operation, types of what
    it reads, of what it writes, threads)` makes the function; `variant(operation)` tells apart functions for
    tensors of the same types.
    """

    label: str
    kernel: Callable[[Backend, Any, Types, Types, int], Any]
    variant: Callable[[Any], Hashable] = lambda _: None


def movement_of(op: Operation) -> Movement:
    """The entry of an operation. Raises UnsupportedModelError where it has none."""
    if type(op) not in MOVEMENTS:
        raise UnsupportedModelError(
            f"{op.name}: the compiler has no kernel for this operation",
            received=type(op).__name__,
            valid=", ".join(each.__name__ for each in MOVEMENTS),
        )
    return MOVEMENTS[type(op)]


def _pointwise(backend: Backend, op: Pointwise, reads: Types, writes: Types, threads: int) -> Any:
    return backend.pointwise(*reads[0].shape, op.epilogue, threads, reads[0].dtype)


def _max_pool(backend: Backend, op: MaxPool, reads: Types, writes: Types, threads: int) -> Any:
    return backend.max_pool(*reads[0].shape, op.kernel, op.strides, op.pads, reads[0].dtype, threads)


def _resize(backend: Backend, op: Resize, reads: Types, writes: Types, threads: int) -> Any:
    return backend.upsample(*reads[0].shape, op.factors, reads[0].dtype, threads)


def _pad(backend: Backend, op: Pad, reads: Types, writes: Types, threads: int) -> Any:
    return backend.pad(*reads[0].shape, op.pads, op.values, reads[0].dtype)


def _concat(backend: Backend, op: Concat, reads: Types, writes: Types, threads: int) -> Any:
    x = reads[0]
    return backend.concat(x.height, x.width, [part.channels for part in reads], x.dtype, threads)


def _stack(backend: Backend, op: Stack, reads: Types, writes: Types, threads: int) -> Any:
    return backend.stack(_sizes(reads), reads[0].channels, reads[0].dtype)


def _unstack(backend: Backend, op: Unstack, reads: Types, writes: Types, threads: int) -> Any:
    x = reads[0]
    return backend.unstack(x.height, op.starts, _sizes(writes), x.channels, x.dtype)


def _channels_last(backend: Backend, op: ToChannelsLast, reads: Types, writes: Types, threads: int) -> Any:
    """What it reads has the type of what it writes, in another order."""
    return backend.to_channels_last(*reads[0].shape, reads[0].dtype, threads)


def _channels_first(backend: Backend, op: ToChannelsFirst, reads: Types, writes: Types, threads: int) -> Any:
    return backend.to_channels_first(reads[0].shape, op.starts, _sizes(writes), reads[0].dtype, threads)


def _sizes(maps: Types) -> list[tuple[int, int]]:
    return [(each.height, each.width) for each in maps]


MOVEMENTS: dict[type[Operation], Movement] = {
    Pointwise: Movement("pointwise", _pointwise, lambda op: op.epilogue),
    MaxPool: Movement("maxpool", _max_pool, lambda op: (op.kernel, op.strides, op.pads)),
    Resize: Movement("resize", _resize, lambda op: op.factors),
    Pad: Movement("pad", _pad, lambda op: (op.pads, op.values)),
    Concat: Movement("concat", _concat),
    Stack: Movement("stack", _stack),
    Unstack: Movement("unstack", _unstack, lambda op: op.starts),
    ToChannelsLast: Movement("to_nhwc", _channels_last),
    ToChannelsFirst: Movement("to_nchw", _channels_first, lambda op: op.starts),
}
