"""The arithmetic of the kernels in numpy int64, and a runner that compiles a TIR function and calls it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tvm

from aqd_deploy.kernels.contract.function import PASS_CONFIG
from aqd_deploy.kernels.contract.spec import (
    AddBias,
    Bound,
    ConvSpec,
    Epilogue,
    Lookup,
    Multiply,
    MultiplyShift,
    Pool,
    Relu,
    Requantize,
    RequantizeMax,
    SkipAdd,
    SkipAddCodes,
    StoreCodes,
    StoreRequantize,
    StoreStream,
    StoreThreshold,
    StreamMultiply,
    Threshold,
)
from aqd_deploy.targets.cpu import read_cpu
from aqd_deploy.targets.isa import Isa

MCPU = {
    Isa.AMX: "sapphirerapids",
    Isa.VNNI: "cascadelake",
    Isa.AVX512: "skylake-avx512",
    Isa.AVXVNNI: "cascadelake",
    Isa.AVX2: "haswell",
    Isa.PORTABLE: "x86-64-v2",
}
CPU_FLAGS = {
    Isa.AMX: "amx_int8",
    Isa.VNNI: "avx512_vnni",
    Isa.AVX512: "avx512bw",
    # The same instruction in another encoding: any CPU with 256-bit VNNI runs these kernels when they are
    # compiled for it.
    Isa.AVXVNNI: "avx512_vnni",
    Isa.AVX2: "avx2",
    Isa.PORTABLE: "sse4_2",
}


def host_runs(isa: Isa) -> bool:
    """Whether this machine has the instructions and lets this process use them."""
    return CPU_FLAGS.get(isa) in read_cpu().features


def compile_functions(functions: dict[str, object], mcpu: str):
    """One module with every function under its name, for an x86-64 CPU."""
    target = tvm.target.Target({"kind": "llvm", "mcpu": mcpu, "mtriple": "x86_64-linux-gnu"})
    named = {name: func.with_attr("global_symbol", name) for name, func in functions.items()}
    with tvm.transform.PassContext(config=PASS_CONFIG):
        return tvm.compile(tvm.IRModule(named), target=target)


def assembly(module) -> str:
    """The assembly of a compiled module."""
    return module.mod.inspect_source("s")


def call(function, inputs: list[np.ndarray], outputs: list[np.ndarray]) -> list[np.ndarray]:
    """Calls a compiled function; outputs come back as numpy."""
    tensors = [tvm.runtime.tensor(np.ascontiguousarray(a)) for a in inputs]
    results = [tvm.runtime.tensor(a) for a in outputs]
    function(*tensors, *results)
    return [r.numpy() for r in results]


def convolve(spec: ConvSpec, data: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """int64 [OH, OW, O] of data [H, W, I] and weights [O, I/group, kh, kw]; [pixels, 1, O] of levels."""
    if spec.levels:
        results = []
        for m in spec.maps:
            pixels = data[m.in_start : m.in_start + m.height * m.width]
            one = convolve(spec.alone(m), pixels.reshape(m.height, m.width, -1), weights)
            results.append(one.reshape(-1, 1, spec.out_channels))
        return np.concatenate(results)
    top, left, bottom, right = spec.pads
    padded = np.zeros((spec.height + top + bottom, spec.width + left + right, spec.in_channels), np.int64)
    padded[:] = 0 if spec.pad_values is None else np.array(spec.pad_values)
    padded[top : top + spec.height, left : left + spec.width] = data
    kernel = weights.astype(np.int64)
    if spec.odd:
        kernel = 2 * kernel + 1
    oh, ow = spec.out_height, spec.out_width
    group_in, group_out = spec.in_channels // spec.group, spec.out_channels // spec.group
    result = np.zeros((oh, ow, spec.out_channels), np.int64)
    for ky in range(spec.kernel[0]):
        for kx in range(spec.kernel[1]):
            rows = slice(
                ky * spec.dilations[0],
                ky * spec.dilations[0] + (oh - 1) * spec.strides[0] + 1,
                spec.strides[0],
            )
            columns = slice(
                kx * spec.dilations[1],
                kx * spec.dilations[1] + (ow - 1) * spec.strides[1] + 1,
                spec.strides[1],
            )
            window = padded[rows, columns]
            for g in range(spec.group):
                o = slice(g * group_out, (g + 1) * group_out)
                result[:, :, o] += window[:, :, g * group_in : (g + 1) * group_in] @ kernel[o, :, ky, kx].T
    return result


def max_pooled(value: np.ndarray, pool: Pool) -> np.ndarray:
    """int64 [H, W, C], where padding never wins."""
    top, left, bottom, right = pool.pads
    lowest = np.iinfo(np.int64).min
    padded = np.pad(value, ((top, bottom), (left, right), (0, 0)), constant_values=lowest)
    windows = np.lib.stride_tricks.sliding_window_view(padded, pool.kernel, (0, 1))
    return windows[:: pool.strides[0], :: pool.strides[1]].max((-2, -1))


def multiply_shift(value: np.ndarray, c: np.ndarray, b: np.ndarray, d: np.ndarray) -> np.ndarray:
    """(value·c + b) >> d in int64."""
    return (value * c.astype(np.int64) + b) >> d.astype(np.int64)


def finish(epilogue: Epilogue, value: np.ndarray, params: list[np.ndarray]) -> list[np.ndarray]:
    """The outputs of an epilogue on int64 `value` [H, W, C]; `params` in the order of the kernel."""
    queue = list(params)

    def take(count: int) -> list[np.ndarray]:
        taken, queue[:] = queue[:count], queue[count:]
        return taken

    for step in epilogue.stages:
        match step:
            case AddBias():
                value = value + take(1)[0]
            case Relu():
                value = np.maximum(value, 0)
            case MultiplyShift():
                value = multiply_shift(value, *take(3))
            case SkipAdd(upsample=up):
                other = take(1)[0].astype(np.int64).repeat(up, 0).repeat(up, 1)
                value = multiply_shift(value, *take(3)) + multiply_shift(other, *take(3))
            case Bound(upper):
                value = (np.minimum if upper else np.maximum)(value, take(1)[0])
            case Requantize() | Threshold():
                value = _code(step, value, take)
            case RequantizeMax(lo=lo, hi=hi):
                larger = np.maximum(multiply_shift(value, *take(3)), multiply_shift(value, *take(3)))
                value = np.clip(larger, lo, hi)
            case Multiply(zero=zero, other_zero=other_zero):
                value = (value - zero) * (take(1)[0].astype(np.int64) - other_zero)
            case StreamMultiply():
                other, b, d = take(3)
                value = multiply_shift(value, other, b, d)
            case Lookup():
                value = take(1)[0].view(step.dtype).astype(np.int64)[value & 255]
    outputs = []
    for store in epilogue.stores:
        match store:
            case StoreStream():
                outputs.append(value.astype(np.int32))
            case StoreCodes(dtype):
                outputs.append(value.astype(dtype))
            case StoreRequantize() | StoreThreshold():
                outputs.append(_code(store, value, take).astype(store.dtype))
    return outputs


def _code(
    store: StoreRequantize | StoreThreshold, value: np.ndarray, take: Callable[[int], list[np.ndarray]]
) -> np.ndarray:
    match store:
        case StoreRequantize(lo=lo, hi=hi):
            return np.clip(multiply_shift(value, *take(3)), lo, hi)
        case StoreThreshold(lo=lo, steps=steps):
            sign, thresholds = take(2)
            reached = (value * sign)[None] >= thresholds.reshape(steps, 1, 1, -1)
            return lo + reached.sum(0)


def any_codes(rng: np.random.Generator, dtype: str, size: tuple[int, ...]) -> np.ndarray:
    """Over the whole range of `dtype`."""
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max + 1, size).astype(dtype)


def stream_product(rng: np.random.Generator, size: tuple[int, ...]) -> list[np.ndarray]:
    """Another stream of 26 bits, B and d."""
    other, b = rng.integers(-(2**26), 2**26, size, dtype=np.int32), rng.integers(-(2**50), 2**50, size[-1])
    return [other, b, rng.integers(24, 30, size[-1]).astype(np.int32)]


def requantization(
    rng: np.random.Generator, channels: int, largest: int, lo: int, hi: int
) -> list[np.ndarray]:
    """c, B and d that bring |value| ≤ `largest` to codes from `lo` to `hi`, and some beyond."""
    bits = max(int(largest).bit_length() - (hi - lo).bit_length() + 1, 0)
    c = rng.integers(-(2**31) + 1, 2**31, channels, dtype=np.int64)
    b = rng.integers(-(2**60), 2**60, channels, dtype=np.int64) >> (40 - min(bits, 40))
    return [c.astype(np.int32), b, np.full(channels, min(31 + bits, 62), np.int32)]


def epilogue_params(
    rng: np.random.Generator, epilogue: Epilogue, shape: tuple[int, int, int], largest: int
) -> list[np.ndarray]:
    """Random parameters that keep every value in int32 and every product below 2^62, for |value| ≤
    `largest`.
    """
    height, width, channels = shape

    def scaled(bound: int) -> list[np.ndarray]:
        """(c, B, d) with results of a similar size as the operand, at most `bound`."""
        c = rng.integers(-(2**30), 2**30, channels, dtype=np.int64)
        c[rng.random(channels) < 0.1] = 2**30
        d = rng.integers(30, 34, channels)
        b = rng.integers(-(2**40), 2**40, channels, dtype=np.int64)
        return [c.astype(np.int32), b, d.astype(np.int32)]

    def identity() -> list[np.ndarray]:
        return [np.ones(channels, np.int32), np.zeros(channels, np.int64), np.zeros(channels, np.int32)]

    def quantizer(store: StoreRequantize | StoreThreshold) -> list[np.ndarray]:
        match store:
            case StoreRequantize(lo=lo, hi=hi):
                return requantization(rng, channels, largest, lo, hi)
            case StoreThreshold(steps=steps):
                table = rng.integers(-largest, largest + 1, (steps, channels)).astype(np.int32)
                return [rng.choice(np.array([-1, 1], np.int32), channels), np.sort(table, axis=0)]

    params: list[np.ndarray] = []
    for step in epilogue.stages:
        match step:
            case AddBias():
                params.append(rng.integers(-(2**20), 2**20, channels, dtype=np.int32))
            case MultiplyShift():
                params += scaled(largest)
            case Bound():
                params.append(rng.integers(-largest, largest + 1, channels).astype(np.int32))
            case Requantize() | Threshold():
                params += quantizer(step)
            case RequantizeMax(lo=lo, hi=hi):
                for _ in range(2):
                    params += requantization(rng, channels, largest, lo, hi)
            case Lookup():
                params.append(any_codes(rng, "uint8", (256,)).view(np.int32))
            case Multiply(dtype=dtype, one_pixel=one_pixel):
                params.append(any_codes(rng, dtype, (*((1, 1) if one_pixel else (height, width)), channels)))
            case StreamMultiply(one_pixel=one_pixel):
                params += stream_product(rng, (*((1, 1) if one_pixel else (height, width)), channels))
            case SkipAdd(upsample=up, self_identity=self_identity, other_identity=other_identity):
                size = height // up, width // up, channels
                if isinstance(step, SkipAddCodes):
                    params.append(any_codes(rng, step.dtype, size))
                else:
                    params.append(rng.integers(-(2**27), 2**27, size, dtype=np.int32))
                params += identity() if self_identity else scaled(largest)
                params += identity() if other_identity else scaled(2**27)
    for store in epilogue.stores:
        if isinstance(store, StoreRequantize | StoreThreshold):
            params += quantizer(store)
    return params
