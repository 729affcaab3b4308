"""The float network in canonical form, its layers, and the files that it refuses."""

import numpy as np
import onnx
import pytest
from float_graphs import CONV3, chain, float_graph, pictures
from onnx import TensorProto, helper

from aqd_deploy.errors import CheckpointError, ModelFileError, ShapeError, UnsupportedModelError
from aqd_deploy.passes.pipeline import lower
from aqd_deploy.quantization.network import Network
from aqd_deploy.quantization.pipeline import quantize
from aqd_deploy.quantization.session import Session

NORM = {name: np.linspace(0.5, 2, 6, dtype=np.float32) for name in ("g", "s", "m", "v")}


def outputs(model, count=2):
    names = [value.name for value in model.graph.output]
    session = Session(model, names)
    return [value for feed in pictures(count).feeds() for value in session(feed).values()]


def agree(first, second):
    for a, b in zip(outputs(first), outputs(second), strict=True):
        # Sums are taken in another order.
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bias", ["", ", b1"])
def test_a_batch_norm_goes_into_the_weights_in_front_of_it(bias):
    body = f"a = Conv {CONV3} (image, w1{bias}) n = BatchNormalization (a, g, s, m, v) r = Relu(n) " \
           f"y = Conv {CONV3} (r, w2)"  # fmt: skip
    model = float_graph(body, {"w1": (6, 3, 3, 3), "b1": (6,), "w2": (4, 6, 3, 3), **NORM})
    folded, kept = Network.of(model), Network.of(model, fold=False)
    assert [node.op_type for node in folded.model.graph.node] == ["Conv", "Relu", "Conv"]
    assert [node.op_type for node in kept.model.graph.node][1] == "BatchNormalization"
    agree(folded.model, model)


def test_a_batch_norm_behind_a_transposed_convolution():
    body = f"t = ConvTranspose <kernel_shape = [2, 2], strides = [2, 2]> (image, w1) " \
           f"n = BatchNormalization (t, g, s, m, v) y = Conv {CONV3} (n, w2)"  # fmt: skip
    model = float_graph(body, {"w1": (3, 6, 2, 2), "w2": (4, 6, 3, 3), **NORM})
    folded = Network.of(model)
    assert [node.op_type for node in folded.model.graph.node] == ["ConvTranspose", "Conv"]
    agree(folded.model, model)


def test_weights_that_layers_share_keep_their_batch_norms():
    body = f"a = Conv {CONV3} (image, w1) n = BatchNormalization (a, g, s, m, v) " \
           f"b = Conv {CONV3} (a, w2) c = Conv {CONV3} (n, w2) " \
           "d = BatchNormalization (b, g, s, m, v) e = BatchNormalization (c, g, m, s, v) " \
           "y = Add(d, e)"  # fmt: skip
    model = float_graph(body, {"w1": (6, 3, 3, 3), "w2": (6, 6, 3, 3), **NORM})
    network = Network.of(model)
    assert sum(node.op_type == "BatchNormalization" for node in network.model.graph.node) == 3
    assert lower(quantize(model, pictures()).model).report["float_tensors"] == 0


def test_layers():
    body = f"a = Conv {CONV3} (image, w1, b1) p = GlobalAveragePool(a) f = Flatten(p) " \
           "g = Gemm <transB = 1> (f, w2) y = MatMul(g, w3)"  # fmt: skip
    model = float_graph(body, {"w1": (6, 3, 3, 3), "b1": (6,), "w2": (5, 6), "w3": (5, 2)})
    found = Network.of(model).layers
    assert [(each.op_type, each.weight, each.bias, each.axis) for each in found] == [
        ("Conv", "w1", "b1", 0), ("Gemm", "w2", None, 0), ("MatMul", "w3", None, 1)
    ]  # fmt: skip


def test_every_node_has_a_name_of_its_own():
    model = chain()
    for node in model.graph.node:
        node.name = "same"
    assert [layer.name for layer in Network.of(model).layers] == ["a", "b", "y"]


def test_the_model_stays_as_it_was():
    model = chain()
    before = model.SerializeToString()
    quantize(model, pictures())
    assert model.SerializeToString() == before


def test_a_quantized_file():
    done = quantize(chain(), pictures()).model
    with pytest.raises(
        UnsupportedModelError, match=r"quantized already; got \d+ quantizers.*aqd-deploy lower"
    ):
        Network.of(done)


def test_an_integer_file():
    with pytest.raises(UnsupportedModelError, match="integer ONNX already"):
        Network.of(lower(quantize(chain(), pictures()).model).model)


@pytest.mark.parametrize("sizes", [[1, 3, "h", "w"], [2, 3, 8, 8]])
def test_shapes_that_are_open_and_batches(sizes):
    model = chain()
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("image", TensorProto.FLOAT, sizes))
    del model.graph.value_info[:]
    with pytest.raises(ShapeError, match="--shape 1x3x320x320"):
        Network.of(model)
    assert Network.of(model, shape=(1, 3, 8, 8)).layers


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(value):
    model = chain()
    tensor = next(each for each in model.graph.initializer if each.name == "w2")
    weights = onnx.numpy_helper.to_array(tensor).copy()
    weights[0, 0, 0, 0] = value
    tensor.CopyFrom(onnx.numpy_helper.from_array(weights, "w2"))
    with pytest.raises(CheckpointError, match="the layer b has a number that isn't finite; got w2"):
        Network.of(model)


def test_no_layers():
    with pytest.raises(UnsupportedModelError, match="no layer to quantize"):
        Network.of(float_graph("y = Relu(image)", {}))


def test_a_damaged_graph():
    model = chain()
    model.graph.node[0].op_type = "Convolution"
    with pytest.raises(ModelFileError, match="isn't a valid ONNX model"):
        Network.of(model)
