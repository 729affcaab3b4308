"""Every dialect function in onnxruntime against unbounded integers."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.integer import dialect
from aqd_deploy.integer.fixedpoint import ms
from aqd_deploy.integer.operations import function
from aqd_deploy.integer.operations.pools import parse_pool_name, pool_name
from aqd_deploy.integer.reference import ReferenceRunner

X_SHAPE = (1, 4, 7, 5)


def run(node, feeds, constants, kind, out_shape):
    """One dialect node with constant operands, as a model."""
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in feeds.items()
    ]
    output = helper.make_tensor_value_info(node.output[0], kind, out_shape)
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    model = dialect.make_model([node], inputs, [output], tensors)
    onnx.checker.check_model(model)
    return ReferenceRunner(model, threads=1).run(feeds)[node.output[0]]


def wide(array):
    return array.astype(object)


def shifted(x, c, b, d):
    """(x·c + B) >> d per channel in Python's integers."""
    out = np.empty(x.shape, dtype=object)
    for channel in range(x.shape[1]):
        values = x[:, channel].ravel().tolist()
        scaled = [ms(v, c[channel], b[channel], d[channel]) for v in values]
        out[:, channel] = np.array(scaled, dtype=object).reshape(x[:, channel].shape)
    return out


@st.composite
def channel_constants(draw):
    """(c, B, d) with |x·c + B| < 2^62 over all of int32."""
    c = draw(st.integers(-(2**30) + 1, 2**30 - 1))
    room = 2**62 - 1 - abs(c) * 2**31
    return c, draw(st.integers(-room, room)), draw(st.integers(0, 62))


def edge_values(seed):
    """Random int32 with the extremes among them."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-(2**31), 2**31, X_SHAPE)
    x.flat[:4] = (-(2**31), 2**31 - 1, 0, -1)
    return x.astype(np.int32)


def constant_arrays(triples, suffix=""):
    c, b, d = zip(*triples, strict=True)
    return {
        f"c{suffix}": dialect.per_channel(c, np.int64),
        f"B{suffix}": dialect.per_channel(b, np.int64),
        f"d{suffix}": dialect.per_channel(d, np.uint64),
    }


@settings(max_examples=40)
@given(
    st.lists(channel_constants(), min_size=4, max_size=4),
    st.sampled_from(["uint8", "int8"]),
    st.integers(0, 99),
)
def test_requantize_is_clip_of_multiply_shift(triples, dtype, seed):
    x = edge_values(seed)
    lo, hi = (0, 15) if dtype == "uint8" else (-8, 7)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    node = dialect.node("Requantize", ["x", "c", "B", "d"], "y", lo=lo, hi=hi, to=kind)
    y = run(node, {"x": x}, constant_arrays(triples), kind, X_SHAPE)
    expected = np.clip(shifted(x, *zip(*triples, strict=True)), lo, hi)
    assert y.dtype == np.dtype(dtype)
    assert (wide(y) == expected).all()


@settings(max_examples=40)
@given(st.lists(channel_constants(), min_size=4, max_size=4), st.integers(0, 99))
def test_multiply_shift_keeps_int32_results(triples, seed):
    """Shifts of at least 31 bits more than c has keep the result within int32."""
    triples = [(c, b, max(d, 31)) for c, b, d in triples]
    x = edge_values(seed)
    node = dialect.node("MultiplyShift", ["x", "c", "B", "d"], "y")
    y = run(node, {"x": x}, constant_arrays(triples), TensorProto.INT32, X_SHAPE)
    assert (wide(y) == shifted(x, *zip(*triples, strict=True))).all()


def test_skip_add_rounds_each_side_on_its_own():
    rng = np.random.default_rng(3)
    a, b = (rng.integers(-(10**6), 10**6, X_SHAPE).astype(np.int32) for _ in range(2))
    left = [(1, 0, 0), (3, 2, 2), (-5, 17, 3), (0, 40, 0)]
    right = [(2**30 - 1, 1 << 29, 30), (1, -7, 0), (7, 1, 1), (1, 0, 5)]
    node = dialect.node("SkipAdd", ["a", "b", "ca", "Ba", "da", "cb", "Bb", "db"], "y")
    constants = constant_arrays(left, "a") | constant_arrays(right, "b")
    y = run(node, {"a": a, "b": b}, constants, TensorProto.INT32, X_SHAPE)
    expected = shifted(a, *zip(*left, strict=True)) + shifted(b, *zip(*right, strict=True))
    assert (wide(y) == expected).all()


def test_threshold_counts_the_steps_reached():
    x = edge_values(5)
    x[x == -(2**31)] += 1
    rng = np.random.default_rng(5)
    table = np.sort(rng.integers(-(2**31), 2**31, (15, 1, 4, 1, 1)), axis=0).astype(np.int32)
    sign = dialect.per_channel([1, -1, 1, -1], np.int32)
    node = dialect.node("Threshold", ["x", "sign", "T"], "y", lo=-8, to=TensorProto.INT8)
    y = run(node, {"x": x}, {"sign": sign, "T": table}, TensorProto.INT8, X_SHAPE)
    expected = -8 + (wide(sign) * wide(x) >= wide(table)).sum(axis=0)
    assert (wide(y) == expected).all()


@pytest.mark.parametrize(("kernel", "stride", "pad"), [(3, 2, 1), (2, 2, 0), (3, 1, 1), (2, 1, 0), (5, 3, 2)])
def test_max_pool_on_int32(kernel, stride, pad):
    """Negative everywhere: padding never wins."""
    x = np.random.default_rng(kernel).integers(-(2**31), -1, (1, 3, 9, 11)).astype(np.int32)
    padded = np.pad(wide(x), ((0, 0), (0, 0), (pad, pad), (pad, pad)), constant_values=-(2**31))
    height, width = ((n + 2 * pad - kernel) // stride + 1 for n in x.shape[2:])
    expected = np.empty((1, 3, height, width), dtype=object)
    for i in range(height):
        for j in range(width):
            window = padded[:, :, i * stride : i * stride + kernel, j * stride : j * stride + kernel]
            expected[:, :, i, j] = window.max(axis=(2, 3))
    node = dialect.node(pool_name(kernel, stride, pad), ["x"], "y")
    y = run(node, {"x": x}, {}, TensorProto.INT32, expected.shape)
    assert (wide(y) == expected).all()


def test_pad_image_pads_each_channel_with_its_value():
    x = np.random.default_rng(1).integers(0, 256, (1, 3, 4, 5)).astype(np.uint8)
    values = np.array([0, 130, 255], dtype=np.uint8).reshape(1, 3, 1, 1)
    node = dialect.node("PadImage", ["x", "values"], "y", pads=[0, 0, 1, 2, 0, 0, 3, 0])
    y = run(node, {"x": x}, {"values": values}, TensorProto.UINT8, (1, 3, 8, 7))
    for channel in range(3):
        expected = np.pad(x[0, channel], ((1, 3), (2, 0)), constant_values=values[0, channel, 0, 0])
        assert (y[0, channel] == expected).all()


def test_conv_odd_is_the_convolution_with_odd_weights():
    rng = np.random.default_rng(2)
    x = rng.integers(0, 256, (1, 3, 6, 6)).astype(np.uint8)
    w = rng.integers(-128, 128, (5, 3, 3, 3)).astype(np.int8)
    w.flat[:2] = (-128, 127)
    ones = np.ones((1, 3, 3, 3), dtype=np.int8)
    geometry = {"strides": [2, 1], "pads": [1, 0, 1, 2], "dilations": [1, 2], "group": 1}
    node = dialect.node("ConvOdd", ["x", "w", "ones"], "y", **geometry)
    y = run(node, {"x": x}, {"w": w, "ones": ones}, TensorProto.INT32, (1, 5, 3, 4))
    q = 2 * w.astype(np.int64) + 1
    padded = np.pad(x.astype(np.int64), ((0, 0), (0, 0), (1, 1), (0, 2)))
    for i in range(3):
        for j in range(4):
            window = padded[:, :, 2 * i : 2 * i + 3, j : j + 5 : 2]
            assert (y[0, :, i, j] == (q * window).sum(axis=(1, 2, 3))).all()


def test_pool_names():
    assert parse_pool_name(pool_name(3, 2, 1)) == (3, 2, 1)
    assert parse_pool_name("MaxPool") is None
    with pytest.raises(UnsupportedModelError, match="no function Softmax; valid: ConvOdd"):
        function("Softmax")
