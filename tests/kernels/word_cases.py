"""Cases of the kernels for other networks than AQD's: (label, function, inputs, expected outputs) each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from kernel_reference import epilogue_params, finish

from aqd_deploy.kernels.contract.cells import cell_table
from aqd_deploy.kernels.contract.spec import (
    AddBias,
    Bound,
    Epilogue,
    Lookup,
    Multiply,
    Pieces,
    Relu,
    Requantize,
    RequantizeMax,
    SkipAddCodes,
    StoreCodes,
    StoreRequantize,
    StoreStream,
    StreamMultiply,
    Threshold,
)
from aqd_deploy.kernels.cpu.movement import pointwise, sampling, selection
from aqd_deploy.targets.isa import Isa

Case = tuple[str, object, list[np.ndarray], list[np.ndarray]]
RANGES = {"uint8": (0, 256), "int8": (-128, 128), "int32": (-(2**31), 2**31)}
CHANNELS = (3, 16, 69, 160)

EPILOGUES = {
    "an add of codes": Epilogue(
        (Requantize(-128, 127, "int8"), SkipAddCodes(dtype="uint8")), (StoreRequantize(0, 255),)
    ),
    "of upsampled signed codes": Epilogue((SkipAddCodes(2, dtype="int8"),), (StoreStream(),)),
    "a table": Epilogue((Requantize(0, 255), Lookup()), (StoreCodes("uint8"),)),
    "a table of signed codes": Epilogue((Requantize(-128, 127, "int8"), Lookup()), (StoreCodes("uint8"),)),
    "a product": Epilogue((Threshold(3, 9), Multiply(7, -5, "int8")), (StoreStream(), StoreRequantize(0, 9))),
    "a gate": Epilogue((Requantize(0, 255), Multiply(0, 128, "uint8", one_pixel=True)), (StoreStream(),)),
    "a product of streams": Epilogue((AddBias(), StreamMultiply(), Relu()), (StoreStream(),)),
    "a gate that is a stream": Epilogue(
        (StreamMultiply(one_pixel=True),), (StoreStream(), StoreRequantize(0, 9))
    ),
    "a clip": Epilogue((Bound(upper=False), Bound(upper=True), AddBias(), Relu()), (StoreStream(),)),
    "two slopes": Epilogue((AddBias(), RequantizeMax(0, 255)), (StoreCodes("uint8"),)),
    "two slopes in front of a table": Epilogue((RequantizeMax(-128, 127), Lookup()), (StoreCodes("uint8"),)),
    "a table among products": Epilogue(
        (Requantize(0, 255), Lookup("int8"), Multiply(1, 2), Requantize(-9, 90, "int8"), Lookup()),
        (StoreCodes("uint8"),),
    ),
}


def sample(dtype: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Any values of `dtype`."""
    return np.random.default_rng(seed).integers(*RANGES[dtype], shape).astype(dtype)


def epilogue_cases(isa: Isa, threads: int) -> Iterator[Case]:
    """Stages on a stream of 24 bits."""
    for number, (label, epilogue) in enumerate(EPILOGUES.items()):
        for channels in CHANNELS:
            shape = (4, 6, channels)
            data = sample("int32", shape, number) >> 8
            params = epilogue_params(np.random.default_rng(number), epilogue, shape, 2**23)
            function = pointwise.epilogue_func(*shape, epilogue, isa, threads)
            expected = finish(epilogue, data.astype(np.int64), params)
            yield f"{label}, {channels}", function, [data, *params], expected


def steps_cases(isa: Isa, threads: int) -> Iterator[Case]:
    """Staircases: dense, sparse, with thresholds that are equal, at the ends of int32, and of one step."""
    generator = np.random.default_rng(4)
    tables = {
        "dense": np.arange(-300, 400),
        "sparse": np.sort(generator.integers(-(2**31), 2**31, 255)),
        "equal": np.repeat([-7, 0, 1000], 5),
        "ends": np.array([-(2**31), -(2**31) + 1, 0, 2**31 - 1, 2**31 - 1]),
        "one": np.array([12]),
    }
    for label, table in tables.items():
        codes = generator.integers(0, 256, len(table) + 1)
        stage, params = cell_table(table.astype(np.int32), codes)
        assert stage.most == 1 or label in ("sparse", "ends")
        near = table[generator.integers(len(table), size=(2, 5, 37))] + generator.integers(-1, 2, (2, 5, 37))
        data = np.clip(near, -(2**31), 2**31 - 1).astype(np.int32)
        data[0] = sample("int32", (5, 37))
        data[0, 0, :4] = -(2**31), 2**31 - 1, -1, 0
        epilogue = Epilogue((stage,), (StoreCodes("uint8"),))
        function = pointwise.epilogue_func(*data.shape, epilogue, isa, threads)
        expected = codes[np.searchsorted(table, data, side="right")].astype(np.uint8)
        yield label, function, [data, *params], [expected]


def pieces_cases(isa: Isa, threads: int) -> Iterator[Case]:
    """Straight pieces, of slopes and shifts that differ, on streams of 24 bits."""
    generator = np.random.default_rng(5)
    for count in (1, 6, 300):
        table = np.sort(generator.choice(1 << 24, count, replace=False)) - (1 << 23)
        stage = Pieces(count + 1)
        thresholds = np.full((1 << stage.bits) - 1, np.iinfo(np.int32).max, np.int32)
        thresholds[:count] = table
        shift = generator.integers(0, 35, count + 1)
        c = generator.integers(-(4 << shift), 4 << shift) >> np.maximum(shift - 28, 0)
        b = generator.integers(-(1 << 60), 1 << 60, count + 1) >> (34 - shift)
        data = sample("int32", (3, 5, 37), count) >> 8
        data[0, 0, :2] = np.clip([table[0] - 1, table[0]], -(1 << 23), 1 << 23)
        piece = np.searchsorted(table, data, side="right")
        expected = (data * c[piece] + b[piece]) >> shift[piece]
        assert abs(expected).max() < 1 << 31
        function = pointwise.epilogue_func(*data.shape, Epilogue((stage,)), isa, threads)
        params = [thresholds, c.astype(np.int32), b, shift.astype(np.int32)]
        yield f"{count} thresholds", function, [data, *params], [expected.astype(np.int32)]


def movement_cases(threads: int, counts: Sequence[int] = CHANNELS) -> Iterator[Case]:
    """Selections and sums of windows, of every type that they take."""
    for dtype in RANGES:
        for channels in counts:
            data = sample(dtype, (5, 6, channels), channels)
            yield from _selections(data, dtype, threads)
            # Sums of a stream stay within int32.
            yield from _sums(data >> 8 if dtype == "int32" else data, dtype, threads)


def _selections(data: np.ndarray, dtype: str, threads: int) -> Iterator[Case]:
    shape = data.shape
    for cuts in (((1, 2, 2), (0, 1, 5), (0, 1, shape[2])), ((4, 1, 1), (2, 3, 2), (1, 2, shape[2] // 2))):
        rows, columns, channels = (first + step * np.arange(count) for first, step, count in cuts)
        function = selection.slice_map(*shape, cuts, dtype, threads)
        yield f"slice {shape} {dtype}", function, [data], [data[np.ix_(rows, columns, channels)]]
    indices = np.random.default_rng(1).integers(0, shape[2], shape[2] + 2).astype(np.int32)
    function = selection.gather(*shape, len(indices), dtype, threads)
    yield f"gather {shape} {dtype}", function, [data, indices], [data[:, :, indices]]
    result = (3, shape[0] * shape[2], 7)
    order = np.random.default_rng(2).integers(0, data.size, result).astype(np.int32)
    function = selection.rearrange(shape, result, dtype, threads)
    yield f"rearrange {shape} {dtype}", function, [data, order.ravel()], [data.ravel()[order]]
    count = shape[2] // 4
    if shape[2] % 4 == 0:
        for first, step in (((0, 1, 2, 3), 4), (tuple(count * i for i in range(4)), 1)):
            expected = np.zeros((10, 12, count), dtype)
            for i, start in enumerate(first):
                expected[i // 2 :: 2, i % 2 :: 2] = data[:, :, start + step * np.arange(count)]
            function = selection.depth_to_space(*shape, 2, first, step, dtype, threads)
            yield f"squares {shape} {dtype} {step}", function, [data], [expected]


def _sums(data: np.ndarray, dtype: str, threads: int) -> Iterator[Case]:
    shape, wide = data.shape, data.astype(np.int32)
    for kernel, strides, pads in (((5, 6), (1, 1), (0,) * 4), ((3, 2), (2, 1), (1, 0, 2, 1))):
        top, left, bottom, right = pads
        padded = np.pad(wide, ((top, bottom), (left, right), (0, 0)), constant_values=77)
        windows = np.lib.stride_tricks.sliding_window_view(padded, kernel, (0, 1))
        expected = windows[:: strides[0], :: strides[1]].sum((-2, -1)).astype(np.int32)
        function = sampling.sum_pool(*shape, kernel, strides, pads, 77, dtype, threads)
        yield f"sums {shape} {dtype} {kernel}", function, [data], [expected]
    for factors, half_pixel in (((2, 3), 1), ((4, 1), 0)):
        expected = wide
        for axis, factor in enumerate(factors):
            t = 2 * np.arange(shape[axis] * factor) + half_pixel * (1 - factor)
            places = np.arange(shape[axis]) * 2 * factor
            # Hats around the places, cut at the edges.
            weights = np.maximum(2 * factor - abs(np.clip(t, 0, places[-1])[:, None] - places), 0)
            expected = np.moveaxis(np.tensordot(weights, expected, (1, axis)), 0, axis)
        function = sampling.resize_linear(*shape, factors, half_pixel, dtype, threads)
        yield f"linear {shape} {dtype} {factors}", function, [data], [expected.astype(np.int32)]
