"""Operations without multiply-accumulates → their TIR kernels: pools, upsampling, concat, border layouts."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from tvm import tirx

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
from aqd_deploy.kernels.cpu.emit import Emitter, const, load
from aqd_deploy.kernels.cpu.movement import pointwise, pyramid_stack
from aqd_deploy.targets.isa import Isa


def label(op: Operation) -> str:
    """Name of the operation's TIR function, and of its row in the manifest."""
    match op:
        case ToChannelsLast():
            return "to_nhwc"
        case ToChannelsFirst():
            return "to_nchw"
        case _:
            return type(op).__name__.lower()


def signature(op: Operation) -> Hashable:
    """What distinguishes the kernels of two operations whose inputs have the same types."""
    match op:
        case Pointwise():
            return ("pointwise", op.epilogue)
        case MaxPool():
            return ("maxpool", op.kernel, op.strides, op.pads)
        case Resize():
            return ("resize", op.factors)
        case Pad():
            return ("pad", op.pads, op.values)
        case Unstack() | ToChannelsFirst():
            return (label(op), op.starts)
        case _:
            return (label(op),)


def kernel(op: Operation, tensors: Mapping[str, TensorType], isa: Isa, threads: int) -> Any:
    """The PrimFunc of `op`: inputs, parameters, outputs."""
    if isinstance(op, Concat):
        parts = [tensors[name] for name in op.inputs]
        x = parts[0]
        return pointwise.concat(x.height, x.width, [part.channels for part in parts], x.dtype, threads)
    if isinstance(op, Stack):
        parts = [tensors[name] for name in op.inputs]
        sizes = [(part.height, part.width) for part in parts]
        return pyramid_stack.stack(sizes, parts[0].channels, parts[0].dtype)
    x = tensors[op.reads[0]]
    match op:
        case Pointwise():
            return pointwise.epilogue_func(*x.shape, op.epilogue, isa, threads, x.dtype)
        case MaxPool():
            return pointwise.max_pool(*x.shape, op.kernel, op.strides, op.pads, x.dtype, threads)
        case Resize():
            return pointwise.upsample(*x.shape, op.factors, x.dtype, threads)
        case Pad():
            return _pad(x, op.pads, op.values)
        case ToChannelsLast():
            return pointwise.nchw_to_nhwc(*x.shape, x.dtype, threads)
        case Unstack() | ToChannelsFirst():
            sizes = [(tensors[name].height, tensors[name].width) for name in op.outputs]
            if isinstance(op, Unstack):
                return pyramid_stack.unstack(x.height, op.starts, sizes, x.channels, x.dtype)
            return pyramid_stack.to_channels_first(x.shape, op.starts, sizes, x.dtype, threads)
    raise TypeError(f"no kernel for {type(op).__name__}")


def _pad(x: TensorType, pads: tuple[int, int, int, int], values: tuple[int, ...]) -> Any:
    """PrimFunc of a padding that no convolution could take: plain loops, one value a channel."""
    top, left, bottom, right = pads
    height, width = x.height + top + bottom, x.width + left + right
    em = Emitter()
    data = em.parameter("data", x.shape, x.dtype)
    out = em.parameter("out", (height, width, x.channels), x.dtype)
    with em.loop("y", height) as y, em.loop("x", width) as column:
        for c, value in enumerate(values):
            inside = tirx.all(y >= top, y < top + x.height, column >= left, column < left + x.width)
            source = ((y - top) * x.width + (column - left)) * x.channels + c
            padded = tirx.if_then_else(inside, load(data, source), const(value, x.dtype))
            em.store(out, (y * width + column) * x.channels + c, padded)
    return em.finish()
