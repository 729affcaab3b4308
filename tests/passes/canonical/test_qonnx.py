"""QONNX's quantizers; test_canonical_files has whole networks of Brevitas."""

import numpy as np
import pytest
from canonical_meaning import canonical
from float64_reference import Float64Network
from small_files import FileBuilder, constants_of, ops

from aqd_deploy.errors import UnsupportedModelError

DOMAIN = "qonnx.custom_op.general"


class Qonnx(FileBuilder):
    """Quant nodes with their constants."""

    def quant(self, x, scale, zero=0.0, bits=8.0, op="Quant", **attributes):
        count = len(self.constants)
        told = {"scale": np.asarray(scale, np.float32), "zero": np.float32(zero), "bits": np.float32(bits)}
        names = [self.constant(f"{key}{count}", value) for key, value in told.items()]
        return self.node(op, [x, *names], domain=DOMAIN, **{"signed": 1, "narrow": 0, **attributes})


@pytest.mark.parametrize(
    ("bits", "signed", "narrow", "limits"),
    [(8, 1, 0, []), (8, 1, 1, [-127, 127]), (4, 0, 0, [0, 15]), (3, 1, 0, [-4, 3]), (8, 0, 0, [])],
)
def test_case_1_bits_that_the_type_has_not_are_clipped(bits, signed, narrow, limits):
    b = Qonnx()
    state = b.rewritten(b.quant("image", 0.11, bits=bits, signed=signed, narrow=narrow))
    clips = [node for node in state.model.graph.node if node.op_type == "Clip"]
    assert [constants_of(state.model)[name] for node in clips for name in node.input[1:]] == limits


def test_case_1_scales_of_one_a_channel_get_their_axis():
    b = Qonnx()
    weights = b.constant("w", b.rng.normal(0, 1, (6, 4, 1, 1)).astype(np.float32))
    w = b.quant(weights, b.rng.uniform(0.01, 0.02, (6, 1, 1, 1)), bits=4, narrow=1)
    state = b.rewritten(b.node("Conv", [b.quant("image", 0.1), w]))
    assert ops(state.model) == ["Clip", "Conv"]


def test_case_2_a_bias_of_32_bits():
    b = Qonnx()
    bias = b.quant(b.constant("b", b.rng.normal(0, 9, 6).astype(np.float32)), 0.001, bits=32)
    state = b.rewritten(b.node("Conv", [b.quant("image", 0.1), b.weights((6, 4, 1, 1)), bias]))
    assert any(array.dtype == np.int32 for array in constants_of(state.model).values())


def test_case_3_bipolar_weights():
    b = Qonnx()
    w = b.constant("w", b.rng.normal(0, 1, (6, 4, 1, 1)).astype(np.float32))
    w = b.node("BipolarQuant", [w, b.constant("ws", np.float32(0.25))], domain=DOMAIN)
    state = b.rewritten(b.node("Conv", [b.quant("image", 0.1), w]))
    codes = [
        array for array in constants_of(state.model).values() if array.dtype == np.int8 and array.size > 1
    ]
    assert set(codes[0].ravel().tolist()) == {-1, 1}


def test_case_4_trunc_is_the_floor_of_a_sum():
    b = Qonnx()
    x = b.quant("image", 0.25, bits=4)
    area = b.constant("area", np.float32(4))
    total = b.node("Mul", [b.node("AveragePool", [x], kernel_shape=[2, 2], strides=[2, 2]), area])
    names = [b.constant(f"trunc{i}", np.float32(v)) for i, v in enumerate((0.25, 0, 6, 4))]
    y = b.node("Trunc", [total, *names], domain=DOMAIN, rounding_mode="FLOOR")
    state = canonical(b.model(b.conv(y), y))
    image = b.images()["image"]
    got = Float64Network(state.model).run({"image": np.clip(np.rint(image / 0.25), -8, 7).astype(np.int8)})
    (sums,) = [got[node.output[0]] for node in state.model.graph.node if node.op_type == "Mul"]
    expected = np.floor(np.rint(sums / 0.25) / 4) * 0.25
    assert np.array_equal(got[state.model.graph.output[1].name], expected) and (expected < 0).any()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"bits": 16}, "of 16 bits"),
        ({"rounding_mode": "FLOOR"}, "rounds by FLOOR"),
        ({"zero": 0.5}, "zero point of Quant isn't a whole number"),
        ({"zero": 300.0}, "zero points that are no codes"),
        ({"scale": np.inf}, "scale of Quant isn't a finite constant"),
    ],
)
def test_case_5_what_a_code_cannot_say(settings, words):
    b = Qonnx()
    with pytest.raises(UnsupportedModelError, match=words):
        canonical(b.model(b.quant("image", settings.pop("scale", 0.1), **settings)))


def test_case_5_bipolar_activations():
    b = Qonnx()
    y = b.node("BipolarQuant", ["image", b.constant("s", np.float32(1))], domain=DOMAIN)
    with pytest.raises(UnsupportedModelError, match="BipolarQuant of activations"):
        canonical(b.model(y))
