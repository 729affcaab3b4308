"""The operations of the integer file for other networks than AQD's: what they write is of the dialect."""

import numpy as np
import pytest
from graph_meaning import evaluate
from onnx import TensorProto, helper, numpy_helper

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.integer import dialect
from aqd_deploy.integer.reader import read_graph
from aqd_deploy.passes.foreign_operations import (
    ConvOffset,
    DepthToSpace,
    Floor,
    Gather,
    Lookup,
    Multiply,
    Pieces,
    Rearrange,
    ResizeLinear,
    Slice,
    StreamMultiply,
    StreamSumPool,
    SumPool,
    Top,
)
from aqd_deploy.passes.graph import Graph, Node
from aqd_deploy.passes.integer_operations import Cast, PadImage, SharedThreshold
from aqd_deploy.passes.operations import MaxPool, Window
from aqd_deploy.passes.writer import Writer


def written(op, dtype, inputs=("x",), constants=None, stream=False):
    """(x, y) of a model of one node `op`, on x [1, 4, 5, 6] of `dtype`, as int32 where `stream`."""
    graph = Graph("g", {}, [], [], {}, dict(constants or {}))
    writer = Writer(graph)
    nodes = [Cast().write(Node(Cast(), ["x"], "wide"), writer)] if stream else []
    sources = ["wide" if stream and name == "x" else name for name in inputs]
    nodes.append(op.write(Node(op, sources, "y"), writer))
    model = dialect.make_model(
        nodes,
        [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), [1, 4, 5, 6])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, None)],
        [numpy_helper.from_array(value, name) for name, value in writer.initializers.items()],
    )
    limits = np.iinfo(dtype)
    x = np.random.default_rng(1).integers(limits.min, limits.max + 1, (1, 4, 5, 6)).astype(dtype)
    for kind in (TensorProto.INT32, TensorProto.UINT8, TensorProto.INT8):
        model.graph.output[0].type.tensor_type.elem_type = kind
        try:
            graph = read_graph(model)
        except Exception as error:
            if "declared with another type" not in str(error):
                raise
        else:
            return x, evaluate(graph, {"x": x})["y"]
    raise AssertionError(op)


@pytest.mark.parametrize("source", ["uint8", "int8"])
def test_a_table_is_given_by_the_codes_in_order(source):
    least = np.iinfo(source).min
    values = (np.arange(256) * 37 + 5) % 256 - 128
    x, y = written(Lookup.by_code(values, source, "int8"), source)
    np.testing.assert_array_equal(y, values[x.astype(int) - least])


def test_a_dilated_pool_is_refused_by_what_it_is():
    with pytest.raises(UnsupportedModelError, match="attribute dilations of MaxPool"):
        written(MaxPool(Window((2, 2), (1, 1), (0, 0, 0, 0), (2, 2))), "uint8")
    x, y = written(MaxPool(Window((2, 2), (1, 1), (0, 0, 0, 0))), "uint8")
    np.testing.assert_array_equal(y[..., 0, 0], x[..., :2, :2].max(axis=(2, 3)))


def test_steps():
    codes = np.array([9, 1, 2, 3, 200], np.uint8)
    op = SharedThreshold(np.array([-5, 0, 0, 90]), codes, [0] * 4, np.zeros(4))
    x, y = written(op, "int8", stream=True)
    np.testing.assert_array_equal(y, np.array([9, 1, 2, 3, 200])[(x[..., None] >= [-5, 0, 0, 90]).sum(-1)])


def test_pieces_meet_at_their_thresholds():
    op = Pieces(np.array([0, 40]), np.array([0, 3, -1]), np.array([-7, 1, 250]), np.array([0, 1, 2]))
    x, y = written(op, "int8", stream=True)
    wide = x.astype(int)
    wanted = np.where(wide < 0, -7, np.where(wide < 40, (3 * wide + 1) >> 1, (250 - wide) >> 2))
    np.testing.assert_array_equal(y, wanted)


def test_a_product_of_centred_codes():
    x, y = written(Multiply((120, -3)), "uint8", ("x", "x"))
    np.testing.assert_array_equal(y, (x.astype(int) - 120) * (x.astype(int) + 3))


def test_a_product_of_streams_is_rounded_by_its_shifts():
    x, y = written(StreamMultiply((0, 1, 5, 9)), "int8", ("x", "x"), stream=True)
    scale = 2.0 ** np.array([0, 1, 5, 9]).reshape(1, 4, 1, 1)
    np.testing.assert_array_equal(y, np.floor(x.astype(float) ** 2 / scale + np.where(scale > 1, 0.5, 0)))


def test_sums_of_windows():
    x, y = written(SumPool(Window((5, 6), (1, 1), (0, 0, 0, 0)), 0), "int8")
    np.testing.assert_array_equal(y, x.astype(int).sum(axis=(2, 3), keepdims=True))


def test_sums_of_a_stream_in_its_padding_too():
    x, y = written(StreamSumPool(Window((2, 2), (1, 1), (1, 0, 0, 0))), "int8", stream=True)
    x = np.pad(x.astype(int), ((0, 0), (0, 0), (1, 0), (0, 0)))
    np.testing.assert_array_equal(y, x[..., 1:, 1:] + x[..., :-1, 1:] + x[..., 1:, :-1] + x[..., :-1, :-1])


@pytest.mark.parametrize("half_pixel", [False, True])
def test_linear_upsampling_says_by_how_much_it_is_too_large(half_pixel):
    op = ResizeLinear((2, 3), half_pixel)
    _, y = written(op, "uint8")
    assert y.shape == (1, 4, 10, 18)
    assert y.max() > 255 and y.max() <= 255 * op.gain


def test_selections():
    x, y = written(Gather((3, 0, 0)), "int8")
    np.testing.assert_array_equal(y, x[:, [3, 0, 0]])
    order = np.random.default_rng(3).integers(0, 120, (3, 7, 2))
    x, y = written(Rearrange(order), "int8", stream=True)
    np.testing.assert_array_equal(y, x.reshape(-1)[order][None])
    x, y = written(Slice((1, 3), ((1, 4, 2), (0, -1, 1))), "int8", stream=True)
    np.testing.assert_array_equal(y, x[:, 1:4:2, :, :-1])
    for mode in ("CRD", "DCR"):
        x, y = written(DepthToSpace(2, mode), "uint8")
        assert y.shape == (1, 1, 10, 12)
        np.testing.assert_array_equal(y[0, 0, ::2, ::2], x[0, 0])


def test_clips_of_a_stream():
    x, y = written(Floor(np.array(-7)), "int8", stream=True)
    np.testing.assert_array_equal(y, np.maximum(x, -7))
    bound = np.array([1, 2, 3, 100])
    x, y = written(Top(bound), "int8", stream=True)
    np.testing.assert_array_equal(y, np.minimum(x, bound.reshape(1, -1, 1, 1)))


@pytest.mark.parametrize("group", [1, 4])
def test_weights_of_nine_bits(group):
    generator = np.random.default_rng(2)
    w = generator.integers(-128, 128, (4, 4 // group, 1, 1)).astype(np.int8)
    offset = np.array([-128, 128, 0, 5])
    weights = w.astype(np.int64) + offset.reshape(-1, 1, 1, 1)
    op = ConvOffset(Window((1, 1), (1, 1), (0, 0, 0, 0)), group, weights, 7, offset)
    x, y = written(op, "uint8", ("x", "w", "z"), {"w": w, "z": np.array(7, np.uint8)})
    dense = weights[:, :, 0, 0] if group == 1 else np.diag(weights[:, 0, 0, 0])
    np.testing.assert_array_equal(y[0], np.einsum("oc,chw->ohw", dense, x[0].astype(int) - 7))


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_an_image_of_either_type_is_padded_with_its_own(dtype):
    values = np.array([1, 2, 3, 4], dtype).reshape(1, 4, 1, 1)
    x, y = written(PadImage((1, 0, 0, 0)), dtype, ("x", "v"), {"v": values})
    np.testing.assert_array_equal(y[:, :, 1:], x)
    np.testing.assert_array_equal(y[0, :, 0, 0], [1, 2, 3, 4])
