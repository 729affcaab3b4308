"""The integers that every candidate of a task must return, computed without any of its kernels.

Accumulators come from numpy: products of matrices in float32 where every sum stays below 2^24, else in
float64, so exact. The epilogue is the same TIR as in the kernels, one channel at a time, on one thread.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm

from aqd_deploy.kernels.contract.spec import ConvSpec, Epilogue, Map, StoreStream
from aqd_deploy.kernels.cpu.emit import Emitter, const, load
from aqd_deploy.kernels.cpu.epilogue.epilogue import Place, bind_epilogue
from aqd_deploy.kernels.cpu.isa.select import portable_entry


def accumulators(spec: ConvSpec, data: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """int32 [OH, OW, O] of data [H, W, I] (uint8 or int8) and weights int8 [O, I/group, kh, kw]."""
    kernel = weights.astype(np.int64)
    if spec.odd:
        kernel = 2 * kernel + 1
    kernel = kernel.astype(_float_type(spec, data, kernel))
    flat = data.reshape(-1, spec.in_channels)
    maps = [_one_map(spec, m, flat, kernel) for m in spec.maps]
    joined = np.concatenate([m.reshape(-1, spec.out_channels) for m in maps])
    return joined.astype(np.int32).reshape(spec.out_height, spec.out_width, spec.out_channels)


def _float_type(spec: ConvSpec, data: np.ndarray, kernel: np.ndarray) -> type[np.floating]:
    """The type in which every partial sum is exact."""
    samples = [int(data.min()), int(data.max()), *(spec.pad_values or (0,))]
    largest = max(abs(sample) for sample in samples)
    return np.float32 if largest * int(np.abs(kernel).max()) * kernel[0].size < 2**24 else np.float64


def _one_map(spec: ConvSpec, place: Map, pixels: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """The outputs [pixels, O] of one map, of the type of `kernel`."""
    top, left, bottom, right = spec.pads
    shape = (place.height + top + bottom, place.width + left + right, spec.in_channels)
    padded = np.zeros(shape, kernel.dtype)
    padded[:] = 0 if spec.pad_values is None else np.array(spec.pad_values)
    inside = pixels[place.in_start : place.in_start + place.height * place.width]
    padded[top : top + place.height, left : left + place.width] = inside.reshape(
        place.height, place.width, -1
    )
    group_in, group_out = spec.in_channels // spec.group, spec.out_channels // spec.group
    result = np.zeros((place.out_height * place.out_width, spec.out_channels), kernel.dtype)
    for ky in range(spec.kernel[0]):
        for kx in range(spec.kernel[1]):
            rows = _taps(ky * spec.dilations[0], place.out_height, spec.strides[0])
            columns = _taps(kx * spec.dilations[1], place.out_width, spec.strides[1])
            window = padded[rows, columns].reshape(-1, spec.in_channels)
            for g in range(spec.group):
                outputs = slice(g * group_out, (g + 1) * group_out)
                inputs = slice(g * group_in, (g + 1) * group_in)
                result[:, outputs] += window[:, inputs] @ kernel[outputs, :, ky, kx].T
    return result


def _taps(first: int, count: int, stride: int) -> slice:
    return slice(first, first + (count - 1) * stride + 1, stride)


def epilogue_function(spec: ConvSpec, epilogue: Epilogue) -> Any:
    """A PrimFunc: accumulators int32 [OH, OW, O], then the parameters and outputs of `spec.Epilogue`."""
    em = Emitter()
    height, width, channels = spec.out_height, spec.out_width, spec.out_channels
    acc = em.parameter("accumulators", (height, width, channels), "int32")
    bound = bind_epilogue(em, epilogue, portable_entry().isa, height, width, channels, len(spec.maps))
    for level, place in enumerate(spec.maps):
        with (
            em.loop("y", place.out_height) as y,
            em.loop("x", place.out_width) as x,
            em.loop("o", channels) as o,
        ):
            pixel = em.bind("pixel", y * place.out_width + x + place.out_start)
            value = em.bind("v", load(acc, pixel * channels + o))
            bound.emit(em, value, Place(pixel, y, x, const(level) if spec.levels else None), o, 1)
    return em.finish()


def output_buffers(spec: ConvSpec, epilogue: Epilogue) -> list[np.ndarray]:
    """One array [OH, OW, O] a store, filled with what no kernel should leave there."""
    shape = (spec.out_height, spec.out_width, spec.out_channels)
    return [
        np.full(shape, 99, np.int32 if isinstance(store, StoreStream) else store.dtype)
        for store in epilogue.stores
    ]


def expected_outputs(
    spec: ConvSpec, epilogue: Epilogue, data: np.ndarray, weights: np.ndarray, parameters: list[np.ndarray]
) -> list[np.ndarray]:
    """The outputs of the convolution with its epilogue, one array a store."""
    function = epilogue_function(spec, epilogue).with_attr("global_symbol", "finish")
    target = tvm.target.Target({"kind": "llvm", "opt-level": 1})
    compiled = tvm.compile(tvm.IRModule({"finish": function}), target=target)
    arrays = [accumulators(spec, data, weights), *parameters, *output_buffers(spec, epilogue)]
    tensors = [tvm.runtime.tensor(np.ascontiguousarray(array)) for array in arrays]
    compiled["finish"](*tensors)
    return [tensor.numpy() for tensor in tensors[-len(epilogue.stores) :]]
