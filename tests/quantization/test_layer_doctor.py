"""What quantization does to each layer: known noise is found where it was put."""

import copy

import numpy as np
import onnx
import pytest
from float_networks import FloatBuilder, images, residual_network
from onnx import numpy_helper

from aqd_deploy.errors import AqdError, ShapeError, UnsupportedModelError
from aqd_deploy.quantization.calibration import Calibration
from aqd_deploy.quantization.compare import compare
from aqd_deploy.quantization.pipeline import quantize
from aqd_deploy.quantization.recipe import Override, Recipe


@pytest.fixture(scope="module")
def network() -> onnx.ModelProto:
    return residual_network()


@pytest.fixture(scope="module")
def feeds():
    return images(16)


def quantized(network, feeds, **recipe) -> onnx.ModelProto:
    return quantize(network, Calibration.of(feeds), Recipe(**recipe)).model


def rows(document) -> dict:
    return {row["float_name"]: row for row in document["layers"]}


def test_the_layer_with_fewest_bits_is_first(network, feeds):
    recipe = {"overrides": (Override("block.0", 3, 3),)}
    document = compare(quantized(network, feeds, **recipe), network, feeds[:4])
    first, second = document["layers"][:2]
    assert first["name"] == "block.0" and first["weight"]["bits"] == first["activation"]["bits"] == 3
    assert first["alone"]["snr_db"] < 20 < 30 < second["alone"]["snr_db"]
    assert any("weights cost more" in each or "input costs more" in each for each in first["remedies"])
    assert document["matched"] == {"by_name": 7, "by_order": 0, "unmatched": []}
    assert document["images"] == 4


def test_noise_alone_and_accumulated(network, feeds):
    """The stem has only its own noise; a layer behind noisy ones has more than its own."""
    found = rows(compare(quantized(network, feeds, weight_bits=4, activation_bits=4), network, feeds[:4]))
    assert found["stem"]["alone"]["snr_db"] == pytest.approx(found["stem"]["accumulated"]["snr_db"])
    assert found["head.fine"]["accumulated"]["snr_db"] < found["head.fine"]["alone"]["snr_db"] - 3
    assert found["stem"]["alone"]["cosine"] > 0.999


def test_the_signal_to_noise_is_what_numpy_says(network, feeds):
    """The stem reads pixels: its only noise is that of its weights."""
    model = quantized(network, feeds, weight_bits=4, first_bits=4)
    found = rows(compare(model, network, feeds[:2]))["stem"]
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    exact = {t.name: numpy_helper.to_array(t) for t in network.graph.initializer}
    codes, scale = arrays["stem.weight"], arrays["stem.weight_scale"].reshape(-1, 1, 1, 1)
    signal = noise = 0.0
    for feed in feeds[:2]:
        x = (feed["image"].astype(np.float64) - exact["image_mean"].reshape(1, 3, 1, 1)) / 64
        window = np.lib.stride_tricks.sliding_window_view(
            np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))), (3, 3), (2, 3)
        )
        y, z = (np.einsum("nchwij,ocij->nohw", window, w) for w in (exact["stem.weight"], codes * scale))
        y = y + exact["stem.bias"].reshape(1, -1, 1, 1)
        signal, noise = (
            signal + (y**2).sum(),
            noise + ((z + exact["stem.bias"].reshape(1, -1, 1, 1) - y) ** 2).sum(),
        )
    assert found["alone"]["snr_db"] == pytest.approx(10 * np.log10(signal / noise), abs=1e-3)


def test_integers_are_those_of_the_fake_quantized_network(network, feeds):
    document = compare(quantized(network, feeds), network, feeds[:4])
    assert document["integers"]["count"] > 10_000
    assert document["integers"]["differing"] <= document["integers"]["count"] // 1000
    assert document["integers"]["outputs"]["fine"]["snr_db"] > 40


def test_of_a_file_that_lowering_refuses_the_reason_is_told(network, feeds):
    document = compare(quantized(network, feeds, excluded=("block.0",)), network, feeds[:2])
    assert "quantize FILE --complete" in document["integers"]["refused"]
    row = rows(document)["block.0"]
    assert row["activation"] is None and row["alone"]["snr_db"] is None
    assert row["remedies"] == ["a float layer: quantize --complete gives it quantizers"]


def test_layers_that_were_renamed_are_matched_by_their_order(network, feeds):
    model = quantized(network, feeds)
    renamed = copy.deepcopy(network)
    names = {name for node in network.graph.node for name in (*node.input, *node.output)}
    kept = {"image", "fine", "coarse", ""}
    new = {name: f"t{i}" for i, name in enumerate(sorted(names - kept))}
    for node in renamed.graph.node:
        node.name = f"n{node.name}"
        for side in (node.input, node.output):
            side[:] = [new.get(name, name) for name in side]
    for tensor in renamed.graph.initializer:
        tensor.name = new[tensor.name]
    del renamed.graph.value_info[:]
    document = compare(model, renamed, feeds[:2])
    # The outputs kept their names.
    assert document["matched"] == {"by_name": 2, "by_order": 5, "unmatched": []}
    expected = {row["name"]: row["alone"] for row in compare(model, network, feeds[:2])["layers"]}
    assert {row["name"]: row["alone"] for row in document["layers"]} == expected


def test_channels_that_quantization_silences_are_counted(feeds):
    """One output channel of the stem is so weak that all its weights become 0 with one scale for all."""
    net = FloatBuilder()
    x = net.image([100, 110, 120], [64.0, 64.0, 64.0], 16, 16)
    weight = net.weights("w", 8, 3, 3, 3)
    values = numpy_helper.to_array(net.initializers[weight]).copy()
    values[2] *= 1e-4
    net.initializers[weight] = numpy_helper.from_array(values, weight)
    x = net.conv(x, "stem", weight)
    net.output(net.add("Conv", [x, net.weights("h", 4, 8, 1, 1)], "head"), "y", [1, 4, 16, 16])
    network = net.model({})
    document = compare(quantized(network, feeds, per_channel=False), network, feeds[:2])
    stem = rows(document)["stem"]
    assert stem["dead_channels"]["output"] == 1
    assert "output channels whose weights are all 0: quantize without --per-tensor" in stem["remedies"]


class TestRefusals:
    def test_no_images(self, network, feeds):
        with pytest.raises(AqdError, match="no images to compare on"):
            compare(quantized(network, feeds), network, [])

    def test_a_float_file(self, network, feeds):
        with pytest.raises(UnsupportedModelError, match="no layer of the file is quantized"):
            compare(network, network, feeds[:1])

    def test_another_network(self, network, feeds):
        net = FloatBuilder()
        x = net.image([100, 110, 120], [64.0, 64.0, 64.0], 16, 16)
        net.output(net.conv(x, "other", net.weights("o", 5, 3, 3, 3)), "y", [1, 5, 16, 16])
        with pytest.raises(UnsupportedModelError, match="no layer of the one file"):
            compare(quantized(network, feeds), net.model({}), feeds[:1])

    def test_another_input(self, network, feeds):
        other = copy.deepcopy(network)
        other.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 32
        other.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 32
        for value in other.graph.output:
            for dim in value.type.tensor_type.shape.dim[2:]:
                dim.dim_value *= 2
        del other.graph.value_info[:]
        with pytest.raises(ShapeError, match="in different forms"):
            compare(quantized(network, feeds), other, feeds[:1])
