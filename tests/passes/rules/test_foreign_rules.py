"""Operations of other networks than AQD's, each between quantizers, against a float64 evaluation."""

import numpy as np
import pytest
from float64_reference import Float64Network
from island_agreement import assert_islands_agree
from odd_graphs import codes, inputs_of, quantize
from qdq_graphs import QdqBuilder
from small_lowerings import chain, manifest_of, operators

from aqd_deploy.errors import RangeError, UnsupportedModelError
from aqd_deploy.integer.reference import ReferenceRunner
from aqd_deploy.passes.pipeline import lower


def q8(b, x, step=0.0310173, zero=17):
    return quantize(b, x, step, zero)


def between(change, out=(0.0431287, 101), second=None):
    """Codes → `change`(builder, x[, y]) → quantizer → conv → quantizer."""

    def body(b, x):
        first = q8(b, x)
        y = change(b, first) if second is None else change(b, first, quantize(b, b.relu(x), *second))
        return q8(b, b.conv(q8(b, y, *out), 4, 7, odd=False), 0.2, 128)

    return chain(body)


def shaped(b, op, x, shape, **attributes):
    return b.node(op, [x], shape, **attributes)


def squeeze_and_excite(b, x):
    y = shaped(b, "GlobalAveragePool", x, (4, 1, 1))
    y = b.node("Sigmoid", [q8(b, b.conv(q8(b, y), 4, 7, kernel=1, odd=False), 0.05, 128)])
    return b.node("Mul", [x, quantize(b, y, 1 / 255, 0)])


def sliced(starts, ends, axes, steps, shape):
    def change(b, x):
        bounds = [b.constant("bound", np.array(v)) for v in (starts, ends, axes, steps)]
        return b.node("Slice", [x, *bounds], shape)

    return change


def padded(value):
    def change(b, x):
        pads = b.constant("pads", np.array([0, 0, 1, 0, 0, 0, 2, 3]))
        return b.node("Pad", [x, pads, b.constant("value", np.float32(value))], (4, 11, 11))

    return change


def gathered(b, x):
    return b.node("Gather", [x, b.constant("order", np.array([2, 0, 3, -3]))], axis=1)


def mixed(b, x, channels=4):
    """Elements of neighbouring channels change places; x is [1, channels, 8, 8]."""
    pairs, maps = (b.constant("to", np.array([1, *shape])) for shape in ((16, 8, -1), (channels, 8, 8)))
    y = b.node("Transpose", [b.node("Reshape", [x, pairs])], perm=[0, 2, 1, 3])
    return b.node("Reshape", [y, maps], (channels, 8, 8))


def picked(places):
    """GatherND by `places`, which stand for a map of one pixel."""
    indices = np.array(places).reshape(1, 1, 1, 1, -1)
    return lambda b, x: b.node("GatherND", [x, b.constant("places", indices)], (1, 1, 1))


def resized(mode, factor, **attributes):
    def change(b, x):
        scales = b.constant("scales", np.array([1, 1, factor, factor], np.float32))
        return b.node("Resize", [x, "", scales], (4, 8 * factor, 8 * factor), mode=mode, **attributes)

    return change


ALONE = {
    "average": lambda b, x: shaped(b, "AveragePool", x, (4, 4, 4), kernel_shape=[2, 2], strides=[2, 2]),
    "average of 3 x 3 with counted pads": lambda b, x: b.node(
        "AveragePool", [x], kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1
    ),
    "average of the map": lambda b, x: shaped(b, "GlobalAveragePool", x, (4, 1, 1)),
    "linear, half_pixel": resized("linear", 2, coordinate_transformation_mode="half_pixel"),
    "linear, pytorch_half_pixel": resized("linear", 2, coordinate_transformation_mode="pytorch_half_pixel"),
    "linear, asymmetric, by 3": resized("linear", 3, coordinate_transformation_mode="asymmetric"),
    "nearest, half_pixel": resized("nearest", 2),
    "rows and columns": sliced([1, 0], [8, 7], [2, 3], [2, 3], (4, 4, 3)),
    "a pad of 0": padded(0.0),
    "a pad of no code": padded(0.0712),
    "channels in another order": gathered,
    "rows and columns change places": lambda b, x: b.node("Transpose", [x], perm=[0, 1, 3, 2]),
    "elements of several channels": mixed,
    "depth to space": lambda b, x: shaped(b, "DepthToSpace", x, (1, 16, 16), blocksize=2),
    "squeeze and excite": squeeze_and_excite,
    "a number from all": lambda b, x: b.node(
        "Sub", [x, b.constant("k", np.array([1, -2, 0.3, 0], np.float32).reshape(4, 1, 1))]
    ),
    "over a number a channel": lambda b, x: b.node(
        "Div", [x, b.constant("k", np.array([1, -2, 0.3, 7], np.float32).reshape(1, 4, 1, 1))]
    ),
}


@pytest.mark.parametrize("name", ALONE)
def test_codes_of_one_tensor(name):
    model = between(ALONE[name])
    if name == "depth to space":
        model = chain(lambda b, x: q8(b, ALONE[name](b, q8(b, x)), 0.043, 101))
    assert_islands_agree(model)


@pytest.mark.parametrize(("step", "told"), [(0.0310173, None), (0.02, "different scales become one")])
def test_channels_that_are_mixed_come_to_one_scale(step, told):
    """Which whole numbers do not, where the scales differ."""

    def body(b, x):
        y = b.node("Concat", [q8(b, x), quantize(b, b.relu(x), step, 3)], (8, 8, 8), axis=1)
        y = mixed(b, y, 8)
        return b.node("Add", [b.conv(q8(b, y, 0.051, 88), 8, 7, odd=False), y])

    if told is None:
        assert "Rearrange" in operators(assert_islands_agree(chain(body)).model)
    else:
        with pytest.raises(RangeError, match=told):
            lower(chain(body))


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul"])
@pytest.mark.parametrize("out", [(0.0431287, 101), (0.0711, 3)])
def test_codes_of_two_tensors(op, out):
    result = assert_islands_agree(between(lambda b, x, y: b.node(op, [x, y]), out, (0.0173519, 5)))
    report = result.report
    assert report["proven_of_network"] == report["requantized_channels"]
    assert ("Multiply" if op == "Mul" else "SkipAdd") in operators(result.model)


def test_a_sum_that_is_also_read_elsewhere_is_exact_where_it_is_quantized():
    def body(b, x):
        total = b.node("Add", [q8(b, x), quantize(b, b.relu(x), 0.0173519, 5)])
        return b.node("Add", [b.conv(q8(b, total, 0.051, 88), 4, 7, odd=False), total])

    result = assert_islands_agree(chain(body))
    assert operators(result.model).count("SkipAdd") == 3


def test_a_sum_of_three():
    def body(b, x):
        total = b.node("Add", [q8(b, x), quantize(b, b.relu(x), 0.0173519, 5)])
        return q8(b, b.node("Add", [total, quantize(b, x, 0.0419, 60)]), 0.07, 90)

    assert_islands_agree(chain(body), exact=False)


def test_one_pixel_a_channel_is_added_to_all():
    def change(b, x):
        y = q8(b, shaped(b, "GlobalAveragePool", x, (4, 1, 1)))
        return b.node("Add", [x, y])

    assert_islands_agree(between(change))


def test_concat_of_different_steps():
    def body(b, x):
        y = b.concat(q8(b, x), quantize(b, b.relu(x), 0.0173519, 5))
        return q8(b, b.conv(q8(b, y), 4, 7, odd=False), 0.2, 128)

    result = assert_islands_agree(chain(body))
    # The first has the step of the concat already.
    assert operators(result.model).count("Lookup") == 1


@pytest.mark.parametrize("zeros", [[5, 5, 5, 5], [5, 0, 255, 100]])
@pytest.mark.parametrize("clip", [False, True])
def test_a_step_and_zero_point_a_channel_in_front_of_a_depthwise_convolution(zeros, clip):
    def body(b, x):
        if clip:
            x = b.node("Clip", [x, *(b.constant("bound", np.float32(v)) for v in (0, 1.5))])
        steps = b.constant("steps", np.array([0.03, 0.011, 0.02, 0.05], np.float32))
        point = b.constant("points", np.array(zeros, np.uint8))
        y = b.node("QuantizeLinear", [x, steps, point], axis=1)
        y = b.node("DequantizeLinear", [y, steps, point], axis=1)
        return q8(b, b.conv(y, 4, 7, group=4, odd=False), 0.3, 128)

    assert_islands_agree(chain(body), exact=not clip)


@pytest.mark.parametrize("bounds", [(0.0, None), (None, 1.25), (-0.5, 2.0), (-99, 99)])
def test_a_clip_of_codes_stays_codes_where_they_have_its_bounds(bounds):
    """A convolution reads it, so nothing else would do."""

    def body(b, x):
        names = ["" if v is None else b.constant("bound", np.float32(v)) for v in bounds]
        y = b.node("Clip", [quantize(b, x, 1 / 64, 100), *names])
        return q8(b, b.conv(y, 4, 7, odd=False), 0.2, 128)

    assert "Lookup" in operators(assert_islands_agree(chain(body)).model)


@pytest.mark.parametrize("bounds", [(0.0, 0.7), (-0.31, 0.4), (None, 0.5), (-0.2, None)])
def test_a_clip_of_a_stream(bounds):
    def body(b, x):
        names = ["" if v is None else b.constant("bound", np.float32(v)) for v in bounds]
        y = b.node("Clip", [x, *names])
        return b.node("Add", [b.conv(q8(b, y, 0.004, 120), 4, 7, odd=False), y])

    result = assert_islands_agree(chain(body), exact=False)
    assert result.report["largest_input_error_steps"] < 0.01


def test_a_leaky_relu_that_goes_on_as_a_stream():
    def body(b, x):
        y = b.node("LeakyRelu", [x], alpha=0.1)
        return b.node("Add", [b.conv(q8(b, y), 4, 7, odd=False), y])

    assert_islands_agree(chain(body), exact=False)


STREAMS = {
    "average": ALONE["average"],
    "average with pads": ALONE["average of 3 x 3 with counted pads"],
    "average of the map": ALONE["average of the map"],
    "linear, half_pixel": ALONE["linear, half_pixel"],
    "linear, asymmetric, by 3": ALONE["linear, asymmetric, by 3"],
}


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("activation", ["Relu", "LeakyRelu", ""])
def test_sums_of_what_no_quantizer_stands_behind(name, activation):
    """Accumulators as they are, and streams that the ReLU left within 2^26."""

    def body(b, x):
        y = b.conv(q8(b, x), 4, 7, odd=False, bias=True, per_channel=True)
        y = b.node(activation, [y]) if activation else y
        return q8(b, b.conv(q8(b, STREAMS[name](b, y), 0.051, 88), 4, 7, odd=False), 0.2, 128)

    assert_islands_agree(chain(body), exact=not activation and name != "average with pads")


def test_a_large_map_of_a_stream_takes_a_coarser_scale():
    """256 numbers within 2^26 would leave int32."""

    b = QdqBuilder(3, 16, 16)
    x = b.relu(b.conv(b.image(), 4, 8, bias=True, odd=False))
    b.output(b.conv(q8(b, shaped(b, "GlobalAveragePool", x, (4, 1, 1))), 4, 7, kernel=1, odd=False), "out")
    result = assert_islands_agree(b.build(), exact=False)
    assert "StreamSumPool" in operators(result.model)


@pytest.mark.parametrize("zero", [0, 17])
def test_a_leaky_relu_of_codes_that_goes_on_as_a_stream(zero):
    def body(b, x):
        y = b.node("LeakyRelu", [q8(b, x, zero=zero)], alpha=0.1)
        return b.node("Add", [b.conv(q8(b, y), 4, 7, odd=False), y])

    assert_islands_agree(chain(body), exact=False)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda b, x: b.node("AveragePool", [x], kernel_shape=[3, 3], pads=[1] * 4), "padding doesn't count"),
        (lambda b, x: b.conv(b.node("Pad", [x, b.constant("p", np.array([0, 0, 1, 1, 0, 0, 1, 1])),
                                            b.constant("v", np.float32(0.0712))], (4, 10, 10)), 4, 7,
                             odd=False), "it pads with 0.07"),
        (sliced([7], [-9], [2], [-1], (4, 8, 8)), "step of -1"),
        (picked([[0, 4, 7, 7]]), "GatherND of .* the map"),
    ],
)  # fmt: skip
def test_what_has_no_integers_is_refused_with_its_reason(change, match):
    with pytest.raises(UnsupportedModelError, match=match):
        lower(between(change))


def test_an_output_of_codes_has_a_zero_point():
    b = QdqBuilder(1)
    y, scale, zero = codes(b, b.conv(b.image(), 4, 7, odd=False), 0.3, 77)
    b.output(b.node("DequantizeLinear", [y, scale, zero]), "out")
    qdq = b.build()
    result = lower(qdq)
    entry = manifest_of(result.model)["outputs"]["out"]
    assert entry["zero_point"] == 77 and entry["scale"] == [float(np.float32(0.3))]
    assert operators(result.model)[-1] == "Requantize"
    inputs = inputs_of(qdq)
    got = ReferenceRunner(result.model, threads=1).run(inputs)["out"]
    assert np.array_equal(got, Float64Network(qdq).run(inputs)[y])
