"""Where quantizers are missing: as few as `lower` needs. Every network here is then quantized and lowered,
and its integers are held to the fake-quantized floats.
"""

from __future__ import annotations

import numpy as np
import pytest
from float_graphs import CONV3, chain, float_graph, pictures

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.integer.manifest import read_manifest
from aqd_deploy.passes.pipeline import lower
from aqd_deploy.quantization.network import Network
from aqd_deploy.quantization.pipeline import quantize
from aqd_deploy.quantization.placement import Role, missing
from aqd_deploy.quantization.plan import Plan
from aqd_deploy.quantization.recipe import Override, Recipe
from aqd_deploy.quantization.session import Session

W = (6, 3, 3, 3)
STEM = f"a = Conv {CONV3} (image, w1)"
NEXT = (6, 6, 3, 3)
MATRIX = (4, 6)
CHANNELS = np.linspace(0.25, 4, 6, dtype=np.float32).reshape(1, 6, 1, 1)
SLOPES = np.array([0, 0.1, 0.25, -0.1, 1, 0.5], np.float32).reshape(6, 1, 1)

# Name: body, weights, and the activations that get quantizers, each with what it is for.
CASES = {
    "chain": (
        f"{STEM} r = Relu(a) y = Conv {CONV3} (r, w2)",
        {"w1": W, "w2": NEXT},
        {"image": Role.IMAGE, "r": Role.LAYER_INPUT},
    ),
    "a sum of streams has no quantizer": (
        f"{STEM} b = Conv {CONV3} (a, w2) s = Add(a, b) r = Relu(s) y = Conv {CONV3} (r, w3)",
        {"w1": W, "w2": NEXT, "w3": NEXT},
        {"image": Role.IMAGE, "a": Role.LAYER_INPUT, "r": Role.LAYER_INPUT},
    ),
    "functions of one tensor are quantized at their end": (
        f"{STEM} g = Sigmoid(a) m = Mul(a, g) y = Conv {CONV3} (m, w2)",
        {"w1": W, "w2": NEXT},
        {"image": Role.IMAGE, "m": Role.LAYER_INPUT},
    ),
    "a function in a sum needs codes": (
        f"{STEM} g = Sigmoid(a) b = Conv {CONV3} (a, w2) s = Add(g, b) y = Conv {CONV3} (s, w3)",
        {"w1": W, "w2": NEXT, "w3": NEXT},
        {"image": Role.IMAGE, "a": Role.LAYER_INPUT, "g": Role.OPERAND, "s": Role.LAYER_INPUT},
    ),
    "averages and products need codes": (
        f"{STEM} r = Relu(a) p = GlobalAveragePool(r) c = Conv (p, w2) g = Sigmoid(c) m = Mul(r, g) "
        f"y = Conv {CONV3} (m, w3)",
        {"w1": W, "w2": (6, 6, 1, 1), "w3": NEXT},
        {
            "image": Role.IMAGE, "r": Role.OPERAND, "p": Role.LAYER_INPUT, "g": Role.OPERAND,
            "m": Role.LAYER_INPUT,
        },
    ),
    "what copies moves past its quantizer": (
        f"{STEM} r = Relu(a) p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r) "
        f"b = Conv {CONV3} (p, w2) u = Resize <mode = \"nearest\", coordinate_transformation_mode = "
        f"\"asymmetric\", nearest_mode = \"floor\"> (b, , scales) k = Concat <axis = 1> (u, r) "
        f"y = Conv {CONV3} (k, w3)",
        {"w1": W, "w2": NEXT, "w3": (4, 12, 3, 3), "scales": np.array([1, 1, 2, 2], np.float32)},
        {"image": Role.IMAGE, "p": Role.LAYER_INPUT, "k": Role.LAYER_INPUT},
    ),
    "a pool that isn't square is one of codes": (
        f"{STEM} r = Relu(a) p = MaxPool <kernel_shape = [2, 2], pads = [0, 0, 1, 1]> (r) "
        f"s = Relu(p) y = Conv {CONV3} (s, w2)",
        {"w1": W, "w2": NEXT},
        {"image": Role.IMAGE, "r": Role.LAYER_INPUT},
    ),
    "padding is one of codes": (
        f"{STEM} r = LeakyRelu <alpha = 0.1> (a) p = Pad(r, pads) y = Conv (p, w2)",
        {"w1": W, "w2": NEXT, "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])},
        {"image": Role.IMAGE, "r": Role.LAYER_INPUT},
    ),
    "a slope a channel": (
        f"{STEM} r = PRelu(a, slopes) y = Conv {CONV3} (r, w2)",
        {"w1": W, "w2": NEXT, "slopes": SLOPES},
        {"image": Role.IMAGE, "r": Role.LAYER_INPUT},
    ),
    "a number a channel makes a stream of a function": (
        f"{STEM} g = Sigmoid(a) m = Mul(a, g) t = Mul(m, by) y = Conv {CONV3} (t, w2)",
        {"w1": W, "w2": NEXT, "by": CHANNELS},
        {"image": Role.IMAGE, "t": Role.LAYER_INPUT},
    ),
    "also of several together": (
        f"{STEM} g = Sigmoid(a) m = Mul(a, g) p = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (m) "
        f"k = Concat <axis = 1> (m, p, a) t = Add(k, by) y = Conv {CONV3} (t, w2)",
        {"w1": W, "w2": (4, 18, 3, 3), "by": np.tile(CHANNELS, (1, 3, 1, 1))},
        {"image": Role.IMAGE, "t": Role.LAYER_INPUT},
    ),
    "vectors": (
        f"{STEM} r = Relu(a) p = GlobalAveragePool(r) v = Flatten(p) h = Gemm <transB = 1> (v, w2, b2) "
        "n = Relu(h) y = MatMul(n, w3)",
        {"w1": W, "w2": MATRIX, "b2": (4,), "w3": (4, 5)},
        {"image": Role.IMAGE, "r": Role.OPERAND, "v": Role.LAYER_INPUT, "n": Role.LAYER_INPUT},
    ),
    "a normalised image": (
        f"n = Sub(image, mean) {STEM.replace('image', 'n')} y = Conv {CONV3} (a, w2)",
        {"mean": np.array(0.25, np.float32), "w1": W, "w2": NEXT},
        {"image": Role.IMAGE, "n": Role.LAYER_INPUT, "a": Role.LAYER_INPUT},
    ),
    "transposed and depthwise": (
        f"{STEM} r = Relu(a) t = ConvTranspose <kernel_shape = [2, 2], strides = [2, 2]> (r, w2) "
        "d = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], group = 4> (t, w3) y = Relu(d)",
        {"w1": W, "w2": (6, 4, 2, 2), "w3": (4, 1, 3, 3)},
        {"image": Role.IMAGE, "r": Role.LAYER_INPUT, "t": Role.LAYER_INPUT},
    ),
    "the tail has none": (
        f"{STEM} r = Relu(a) b = Conv {CONV3} (r, w2) g = Sigmoid(b) p = GlobalAveragePool(g) y = Mul(g, p)",
        {"w1": W, "w2": NEXT},
        {"image": Role.IMAGE, "r": Role.LAYER_INPUT},
    ),
}  # fmt: skip


def network(name):
    body, weights, _ = CASES[name]
    return float_graph(body, weights)


@pytest.mark.parametrize("name", CASES)
def test_sites(name):
    found = missing(Network.of(network(name)).model)
    assert {site.tensor: site.role for site in found.sites if not site.is_weight} == CASES[name][2]
    layers = [layer.weight for layer in found.layers]
    assert [site.tensor for site in found.sites if site.is_weight] == layers


def integer_outputs(model, feed):
    """Floats of the integer program's own outputs by onnxruntime on the integer file."""
    lowered = lower(model)
    assert lowered.report["float_tensors"] == 0
    manifest = read_manifest(lowered.model)
    entry = manifest["inputs"]["image"]
    codes = np.clip(np.rint(feed["image"] / np.float32(entry["scale"])) + entry["zero_point"], 0, 255)
    names = [value.name for value in lowered.model.graph.output]
    values = Session(lowered.model, names)({"image": codes.astype(entry["dtype"])}).values()
    scales = [np.reshape(manifest["outputs"][name]["scale"], (1, -1, 1, 1)) for name in names]
    return {name: value * scale for name, value, scale in zip(names, values, scales, strict=True)}


@pytest.mark.parametrize("name", CASES)
def test_the_integers_are_those_of_the_quantized_floats(name):
    images = pictures()
    done = quantize(network(name), images)
    feed = next(images.feeds())
    found = integer_outputs(done.model, feed)
    assert found
    for key, value in Session(done.model, list(found))(feed).items():
        # Streams round where floats do not, by far less than a step of 8 bits.
        spread = np.abs(value).max()
        assert np.abs(found[key].reshape(value.shape) - value).max() <= spread / 50
    assert done.report["output_error"] < 0.01


def test_weights_that_layers_share_have_one_site():
    body = f"{STEM} r = Relu(a) b = Conv {CONV3} (r, w2) s = Relu(b) y = Conv {CONV3} (s, w2)"
    found = missing(Network.of(float_graph(body, {"w1": W, "w2": NEXT})).model)
    (site,) = [site for site in found.sites if site.tensor == "w2"]
    assert [reader.node for reader in site.readers] == ["b", "y"]
    assert site.layers == ("b", "y")


def test_first_and_last_layers():
    found = missing(Network.of(chain()).model)
    assert (found.first, found.last, found.ends) == ({"a"}, {"y"}, ("y",))


def test_the_ends_are_those_of_all_layers():
    found = missing(Network.of(chain()).model, lambda name: name == "y")
    assert (found.last, found.ends) == (set(), ("y",))


def test_bits_reach_the_quantizer_that_a_layer_reads_through_copies():
    plan = Plan.of(
        Network.of(network("padding is one of codes")),
        Recipe(weight_bits=4, activation_bits=4, overrides=(Override("y", 4, 5),)),
    )
    assert {site.tensor: bits for site, bits in plan.bits.items()} == {
        "image": 8, "w1": 8, "r": 5, "w2": 4
    }  # fmt: skip


def test_a_tensor_that_two_layers_read_has_the_larger_bits():
    body = f"{STEM} r = Relu(a) b = Conv {CONV3} (r, w2) c = Conv {CONV3} (r, w3) y = Add(b, c)"
    model = float_graph(body, {"w1": W, "w2": NEXT, "w3": NEXT})
    recipe = Recipe(last_bits=4, overrides=(Override("c", activation_bits=6),))
    bits = {site.tensor: n for site, n in Plan.of(Network.of(model), recipe).bits.items()}
    assert (bits["r"], bits["w2"], bits["w3"]) == (6, 4, 4)


def test_layers_behind_an_operator_without_integers_stay_float():
    body = f"{STEM} g = Softmax <axis = 1> (a) y = Conv {CONV3} (g, w2)"
    found = missing(Network.of(float_graph(body, {"w1": W, "w2": NEXT})).model)
    assert [layer.name for layer in found.layers] == ["a"]
    assert found.left_float == (
        "layers stay float from y on, 1 in all: they lie behind the Softmax g, which has no integer form",
    )


def test_excluded_layers_have_no_sites():
    plan = Plan.of(Network.of(chain()), Recipe(excluded=("b",)))
    assert [site.tensor for site in plan.sites] == ["image", "w1", "s", "w3"]


def test_no_layer_left():
    with pytest.raises(UnsupportedModelError, match="no layer of the network can be quantized"):
        Plan.of(Network.of(chain()), Recipe(excluded=("*",)))
