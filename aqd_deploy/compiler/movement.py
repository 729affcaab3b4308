"""Operations other than convolutions → their TIR kernels: one entry for each kind."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from aqd_deploy.compiler.plan import (
    Concat,
    DepthToSpace,
    Gather,
    MaxPool,
    Operation,
    Pad,
    Pointwise,
    Rearrange,
    Resize,
    ResizeLinear,
    Slice,
    Stack,
    SumPool,
    ToChannelsFirst,
    ToChannelsLast,
    Unstack,
)
from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.integer.types import TensorType
from aqd_deploy.kernels.contract.backend import Backend

Types = Sequence[TensorType]


@dataclass(frozen=True)
class MovementKernel:
    """`label` names the TIR function and the row in the manifest; `make(backend, operation, types of what it
    reads, of what it writes, threads)` makes the function.
    """

    label: str
    make: Callable[[Backend, Any, Types, Types, int], Any]

    def variant(self, op: Any) -> Hashable:
        """Tells apart functions for tensors of the same types: all that the operation says, but for which
        tensors and constants the function is called with.
        """
        return tuple(getattr(op, field.name) for field in fields(op) if field.name not in _ARGUMENTS)


_ARGUMENTS = ("name", "input", "inputs", "output", "outputs", "operands", "indices")


def kernel_of(op: Operation) -> MovementKernel:
    """The entry of an operation. Raises UnsupportedModelError where it has none."""
    if type(op) not in MOVEMENT_KERNELS:
        raise UnsupportedModelError(
            f"{op.name}: the compiler has no kernel for this operation",
            received=type(op).__name__,
            valid=", ".join(each.__name__ for each in MOVEMENT_KERNELS),
        )
    return MOVEMENT_KERNELS[type(op)]


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


def _slice(backend: Backend, op: Slice, reads: Types, writes: Types, threads: int) -> Any:
    x = reads[0]
    return backend.slice(*x.shape, (op.rows, op.columns, op.channels), x.dtype, threads)


def _gather(backend: Backend, op: Gather, reads: Types, writes: Types, threads: int) -> Any:
    return backend.gather(*reads[0].shape, writes[0].channels, reads[0].dtype, threads)


def _depth_to_space(backend: Backend, op: DepthToSpace, reads: Types, writes: Types, threads: int) -> Any:
    x = reads[0]
    return backend.depth_to_space(*x.shape, op.blocksize, op.first, op.step, x.dtype, threads)


def _rearrange(backend: Backend, op: Rearrange, reads: Types, writes: Types, threads: int) -> Any:
    return backend.rearrange(reads[0].shape, writes[0].shape, reads[0].dtype, threads)


def _sum_pool(backend: Backend, op: SumPool, reads: Types, writes: Types, threads: int) -> Any:
    window = op.kernel, op.strides, op.pads
    return backend.sum_pool(*reads[0].shape, *window, op.pad_value, reads[0].dtype, threads)


def _resize_linear(backend: Backend, op: ResizeLinear, reads: Types, writes: Types, threads: int) -> Any:
    return backend.resize_linear(*reads[0].shape, op.factors, op.half_pixel, reads[0].dtype, threads)


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


MOVEMENT_KERNELS: dict[type[Operation], MovementKernel] = {
    Pointwise: MovementKernel("pointwise", _pointwise),
    MaxPool: MovementKernel("maxpool", _max_pool),
    Resize: MovementKernel("resize", _resize),
    Pad: MovementKernel("pad", _pad),
    Concat: MovementKernel("concat", _concat),
    Slice: MovementKernel("slice", _slice),
    Gather: MovementKernel("gather", _gather),
    DepthToSpace: MovementKernel("depth_to_space", _depth_to_space),
    Rearrange: MovementKernel("rearrange", _rearrange),
    SumPool: MovementKernel("sumpool", _sum_pool),
    ResizeLinear: MovementKernel("resize_linear", _resize_linear),
    Stack: MovementKernel("stack", _stack),
    Unstack: MovementKernel("unstack", _unstack),
    ToChannelsLast: MovementKernel("to_nhwc", _channels_last),
    ToChannelsFirst: MovementKernel("to_nchw", _channels_first),
}
