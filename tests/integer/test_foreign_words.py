"""Words of the dialect for other networks than AQD's: numpy and onnxruntime agree on many shapes."""

import numpy as np
import pytest
from foreign_words import CASES, SIZES, STREAM_CASES, stream, word_model
from graph_meaning import evaluate
from small_models import INT8, UINT8, ModelWriter, random_image

from aqd_deploy.errors import AqdError
from aqd_deploy.integer.reader import read_graph
from aqd_deploy.integer.reference import ReferenceRunner


def compare(build, dtype, sizes, seed=0):
    """What onnxruntime and numpy compute of the model that `build` makes."""
    model = word_model(build, dtype, sizes, seed)
    image = random_image(model, seed)
    ((name, expected),) = evaluate(read_graph(model), image).items()
    got = ReferenceRunner(model, threads=1).run(image)[name]
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got, expected)
    return got


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("dtype", [UINT8, INT8], ids=["uint8", "int8"])
@pytest.mark.parametrize("case", CASES)
def test_numpy_and_onnxruntime_agree(case, dtype, sizes):
    compare(CASES[case], dtype, sizes, seed=len(case))


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("case", STREAM_CASES)
def test_they_agree_on_streams(case, sizes):
    compare(STREAM_CASES[case], INT8, sizes, seed=len(case))


POOLS = [
    ((3, 3), (2, 2), (1, 1, 1, 1)),
    ((2, 2), (2, 2), (0, 0, 0, 0)),
    ((3, 2), (1, 3), (2, 0, 1, 1)),
    ((1, 4), (1, 1), (0, 3, 0, 2)),
]


@pytest.mark.parametrize("pool", POOLS, ids=str)
@pytest.mark.parametrize("dtype, value", [(UINT8, 200), (INT8, -77), (INT8, 0)])
def test_sums_of_windows(pool, dtype, value):
    compare(lambda w, x, c: w.sum_pool(x, *pool, value), dtype, (5, 6, 7))


@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_sums_of_windows_of_a_stream(pool):
    compare(lambda w, x, c: w.stream_sums(stream(w, x, c), *pool), UINT8, (5, 6, 7))


@pytest.mark.parametrize("mode", ["CRD", "DCR"])
@pytest.mark.parametrize("blocksize", [1, 2, 3])
def test_squares_of_channels(mode, blocksize):
    """ONNX's own is the yardstick where onnxruntime has it."""
    sizes = (2 * blocksize**2, 3, 2)
    ours = compare(lambda w, x, c: w.depth_to_space(x, blocksize, mode), UINT8, sizes)
    compare(lambda w, x, c: w.depth_to_space(stream(w, x, c), blocksize, mode), INT8, sizes)
    w = ModelWriter()
    x = w.image("x", *sizes)
    w.output(w._standard("DepthToSpace", [x], blocksize=blocksize, mode=mode), dtype=UINT8)
    model = w.model()
    (theirs,) = ReferenceRunner(model, threads=1).run(random_image(model)).values()
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("half_pixel", [0, 1])
@pytest.mark.parametrize("factors", [(2, 2), (3, 4), (1, 5)], ids=str)
def test_linear_upsampling_is_onnx_s_in_whole_numbers(factors, half_pixel):
    """onnxruntime computes ONNX's in float: within 1e-4 of a code."""
    sizes = (3, 4, 5)
    ours = compare(lambda w, x, c: w.resize_linear(x, factors, half_pixel), UINT8, sizes)
    w = ModelWriter()
    x = w.image("x", *sizes)
    real = w._standard("Cast", [x], to=1)
    scales = w.constant(np.array([1, 1, *factors], np.float32))
    mode = "half_pixel" if half_pixel else "asymmetric"
    y = w._standard("Resize", [real, "", scales], mode="linear", coordinate_transformation_mode=mode)
    w.output(y, dtype=1)
    model = w.model()
    (theirs,) = ReferenceRunner(model, threads=1).run(random_image(model)).values()
    gain = 4 * factors[0] * factors[1]
    np.testing.assert_allclose(ours / gain, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("lo, hi", [(0, 255), (7, 90), (-20, 3), (-128, 127)])
def test_a_signed_code_counts_from_the_end_of_a_table(lo, hi):
    w = ModelWriter()
    x = w.image("x", 1, 16, 16, dtype=INT8 if lo < 0 else UINT8)
    table = np.arange(256).astype(np.uint8)
    w.output(w._dialect("Lookup", [x, w.constant(table)], to=UINT8), dtype=UINT8)
    codes = np.arange(lo, hi + 1)
    image = np.resize(codes, (1, 1, 16, 16)).astype(np.int8 if lo < 0 else np.uint8)
    (got,) = ReferenceRunner(w.model(), threads=1).run({"x": image}).values()
    np.testing.assert_array_equal(got, image.view(np.uint8))


def pieces(w, s, thresholds, c, b=0):
    """Without shifts."""
    arrays = (thresholds, np.int32), (c, np.int64), ([b] * len(c), np.int64), ([0] * len(c), np.uint64)
    return w._dialect("Pieces", [s, *(w.constant(np.array(v, t)) for v, t in arrays)])


REFUSED = {
    "no code of its input": lambda w, x, s: w.sum_pool(x, (1, 1), pad_value=-1),
    "does not cut channels": lambda w, x, s: w.slice(x, [0], [1], [0], [1]),
    "cut channels": lambda w, x, s: w.slice(x, [0, 0], [1, 1], [2, 2], [1, 1]),
    "steps \\[-1\\]": lambda w, x, s: w.slice(x, [3], [0], [2], [-1]),
    "leaves nothing": lambda w, x, s: w.slice(x, [3], [3], [2], [1]),
    "channels that are not there": lambda w, x, s: w.gather(x, [0, 4]),
    "got -1 to 0": lambda w, x, s: w.gather(x, [0, -1]),
    "elements that are not there": lambda w, x, s: w.rearrange(x, np.array([[[0, 1 << 20]]])),
    "got -1 to 3": lambda w, x, s: w.rearrange(x, np.array([[[-1, 3]]])),
    "constant indices": lambda w, x, s: w.rearrange(x, np.array([0, 3])),
    "no squares": lambda w, x, s: w.depth_to_space(x, 3, "CRD"),
    "half_pixel .* outside": lambda w, x, s: w.resize_linear(x, (2, 2), 2),
    "multiplies unlike": lambda w, x, s: w.multiply(x, w.gather(x, [0, 1]), 0, 0),
    "do not ascend": lambda w, x, s: w._dialect(
        "Steps", [s, w.constant(np.array([3, 2], np.int32)), w.table(3, UINT8)], to=UINT8
    ),
    "another number of codes": lambda w, x, s: w._dialect(
        "Steps", [s, w.constant(np.array([2, 3], np.int32)), w.table(2, UINT8)], to=UINT8
    ),
    "of Pieces|thresholds of t\\d+ do not": lambda w, x, s: pieces(w, s, [3, 3], [0, 0, 0]),
    "another number of pieces": lambda w, x, s: pieces(w, s, [3, 5], [0, 0]),
    "multiplier or shift": lambda w, x, s: pieces(w, s, [3], [1 << 31, 0]),
    "leaves 62 bits in one": lambda w, x, s: pieces(w, s, [3], [1, 0], 1 << 62),
    "can reach": lambda w, x, s: pieces(w, s, [3], [1 << 30, 0]),
    "up to 1023": lambda w, x, s: w.steps(s, UINT8, 1024),
    "constant table": lambda w, x, s: w._dialect("Lookup", [x, w.table(256, INT8)], to=UINT8),
    "another type": lambda w, x, s: w.lookup(s),
    "constant top": lambda w, x, s: w._standard("Min", [s, w.per_channel(np.zeros(3), np.int32)]),
    "is not ones": lambda w, x, s: w._dialect(
        "ConvOffset",
        [x, w.weight(4, 4, 1, 8), w.constant(np.ones((4, 4, 1, 1), np.int8)),
         w.per_channel(np.zeros(4), np.int32), w.constant(np.array(0, np.uint8))],
    ),
    "one an output channel": lambda w, x, s: w._dialect(
        "ConvOffset",
        [x, w.weight(4, 4, 1, 8), w.constant(np.ones((1, 4, 1, 1), np.int8)),
         w.per_channel(np.full(4, 129), np.int32), w.constant(np.array(0, np.uint8))],
    ),
}  # fmt: skip


@pytest.mark.parametrize("message", REFUSED)
def test_what_the_words_do_not_mean_is_refused(message):
    w = ModelWriter()
    x = w.image("x", 4, 5, 5)
    w.output(REFUSED[message](w, x, stream(w, x, 4)), dtype=UINT8)
    with pytest.raises(AqdError, match=message):
        read_graph(w.model())


def test_weights_of_nine_bits_do_not_saturate():
    """Where the CPU's 8-bit products saturate, the reference hands onnxruntime unsigned weights."""
    w = ModelWriter(3)
    x = w.image("x", 8, 6, 6, dtype=INT8)
    w.output(w.conv_offset(x, 4, 8, 3, 1, -5))
    model = w.model()
    image = random_image(model)
    got = ReferenceRunner(model, threads=1, unsigned_weights=True).run(image)
    for name, value in evaluate(read_graph(model), image).items():
        np.testing.assert_array_equal(got[name], value)
