"""Small QDQ graphs that can't be lowered: a maker, the error's class and what its sentence must say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from odd_graphs import (
    Change,
    chain,
    changed,
    clip_values,
    codes,
    int8_image,
    pool,
    renamed,
    resize,
    small_conv,
    weights_along,
    with_value,
)
from onnx import TensorProto, helper
from qdq_graphs import QdqBuilder

from aqd_deploy.errors import AqdError, ModelFileError, ShapeError, UnsupportedModelError


def float8_weights(b: QdqBuilder, x: str) -> str:
    values = b.rng.normal(0, 1, (4, 4, 3, 3)).ravel().tolist()
    b.initializers.append(helper.make_tensor("w8", TensorProto.FLOAT8E4M3FN, [4, 4, 3, 3], values))
    w = b.node("DequantizeLinear", ["w8", b.constant("step_w", np.array(0.1, dtype=np.float32))])
    return b.conv(b.quantize(x, 8, 0.02), 4, 8, weights=w)


def blocked_weights(b: QdqBuilder, x: str) -> str:
    weight = b.constant("weight", b.rng.integers(-100, 100, (4, 4, 1, 1)).astype(np.int8))
    scale = b.constant("step_w", b.rng.uniform(0.1, 1, (1, 4, 1, 1)).astype(np.float32))
    w = b.node("DequantizeLinear", [weight, scale], axis=0, block_size=4)
    return b.conv(b.quantize(x, 8, 0.02), 4, 8, weights=w, kernel=1)


def signed_codes(b: QdqBuilder, x: str) -> str:
    return b.conv(b.quantize(x, 8, 0.03, signed=True), 4, 8)


def joined_codes(b: QdqBuilder, x: str) -> str:
    first, scale, zero = codes(b, x, 0.03, 0)
    second, _, _ = codes(b, x, 0.03, 0, np.int8)
    y = b.node("Concat", [first, second], (8, 8, 8), axis=1)
    return small_conv(b, b.node("DequantizeLinear", [y, scale, zero]))


def relu_of_codes(b: QdqBuilder, x: str) -> str:
    y, scale, zero = codes(b, x, 0.03, 0, np.int8)
    return small_conv(b, b.node("DequantizeLinear", [b.relu(y), scale, zero]))


def broadcast_to_channels(b: QdqBuilder, x: str) -> str:
    y = b.conv(b.quantize(x, 4, 0.3), 1, 4)
    return b.node("Add", [y, b.constant("k", np.ones((1, 4, 1, 1), dtype=np.float32))], (4, 8, 8))


def added(value: float) -> Change:
    return lambda b, x: b.node("Add", [x, b.constant("k", np.array(value, dtype=np.float32))])


def doubled_34_times(b: QdqBuilder, x: str) -> str:
    x = b.relu(x)
    for _ in range(34):
        x = b.concat(x, x)
    return x


def without_outputs() -> onnx.ModelProto:
    model = chain()
    del model.graph.output[:]
    return model


def output_twice() -> onnx.ModelProto:
    model = chain()
    model.graph.output.append(model.graph.output[0])
    return model


def output_from_nowhere() -> onnx.ModelProto:
    model = chain()
    model.graph.output[0].name = "nowhere"
    return model


def many_channels() -> onnx.ModelProto:
    b = QdqBuilder(1, 1, 1, 1)
    x = b.node("DequantizeLinear", ["image", b.constant("std", np.array(0.1, dtype=np.float32))])
    b.output(b.relu(x), "out")
    model = b.build()
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[1].dim_value = 1 << 24
    return model


def with_output_called(name: str) -> onnx.ModelProto:
    model = renamed(chain(), {"out": name})
    model.graph.output[0].name = name
    return model


def of_opset(version: int) -> onnx.ModelProto:
    model = chain()
    model.opset_import[0].version = version
    return model


def half_precision_division() -> onnx.ModelProto:
    model = of_opset(23)
    return changed("QuantizeLinear", model=model, precision=TensorProto.FLOAT16)


Maker = Callable[[], onnx.ModelProto]

REFUSED: dict[str, tuple[Maker, type[AqdError], str]] = {
    "int8 image, odd weights": (
        lambda: int8_image(4, odd=True), UnsupportedModelError, "odd numbers within .255 behind uint8"
    ),
    "int8 image, odd weights, no padding": (
        lambda: int8_image([4, 4, 4], kernel=1, odd=True), UnsupportedModelError,
        "odd numbers within .255 behind uint8",
    ),
    "int8 codes, odd weights": (
        lambda: chain(signed_codes), UnsupportedModelError, "odd numbers within .255 behind uint8"
    ),
    "float8 weights": (
        lambda: chain(float8_weights), UnsupportedModelError, "DequantizeLinear of w8.*float8e4m3fn"
    ),
    "block_size": (lambda: chain(blocked_weights), UnsupportedModelError, "block_size = 4"),
    "weights along axis 1": (lambda: chain(weights_along(1)), UnsupportedModelError, "scales along axis 1"),
    "precision": (half_precision_division, UnsupportedModelError, "precision = 10"),
    "group 2^31-1": (lambda: changed("Conv", group=2**31 - 1), ShapeError, "Conv_conv.*group 2147483647"),
    "group 3": (lambda: changed("Conv", group=3), ShapeError, "group 3 don't fit"),
    "group 0": (lambda: changed("Conv", group=0), UnsupportedModelError, "group = 0.*from 1"),
    "group -1": (lambda: changed("Conv", group=-1), UnsupportedModelError, "group = -1"),
    "group one": (lambda: changed("Conv", group="one"), UnsupportedModelError, "group = one"),
    "pads 2^40": (lambda: changed("Conv", pads=[1 << 40] * 4), UnsupportedModelError, "pads = "),
    "pads -1": (lambda: changed("Conv", pads=[-1] * 4), UnsupportedModelError, "4 whole numbers from 0"),
    "two pads": (lambda: changed("Conv", pads=[1, 1]), UnsupportedModelError, "4 whole numbers"),
    "strides 0": (lambda: changed("Conv", strides=[0, 0]), UnsupportedModelError, "strides = .0, 0"),
    "dilations 2^62": (lambda: changed("Conv", dilations=[1 << 62] * 2), UnsupportedModelError, "dilations"),
    "another kernel_shape": (lambda: changed("Conv", kernel_shape=[5, 5]), ShapeError, "fit"),
    "an unknown attribute": (
        lambda: changed("Conv", frob=1), UnsupportedModelError, "attribute frob.*kernel_shape"
    ),
    "training": (
        lambda: changed("BatchNormalization", training_mode=1), UnsupportedModelError, "training_mode = 1"
    ),
    "epsilon NaN": (
        lambda: changed("BatchNormalization", epsilon=float("nan")), UnsupportedModelError, "epsilon = nan"
    ),
    "epsilon inf": (
        lambda: changed("BatchNormalization", epsilon=float("inf")), UnsupportedModelError, "epsilon = inf"
    ),
    "bias inf": (lambda: with_value(chain(bias=True), "bias", np.inf), UnsupportedModelError, "bias_.*inf"),
    "bias NaN": (lambda: with_value(chain(bias=True), "bias", np.nan), UnsupportedModelError, "bias_.*nan"),
    "Clip at NaN": (lambda: chain(clip_values(np.nan, 2)), UnsupportedModelError, "Clip bound.*nan"),
    "Add of NaN": (lambda: chain(added(np.nan)), UnsupportedModelError, "operand k_.*nan"),
    "Add to more channels": (lambda: chain(broadcast_to_channels), UnsupportedModelError, "odd constant"),
    "Concat of codes of two types": (lambda: chain(joined_codes), ShapeError, "inconsistent type"),
    "Relu of codes": (lambda: chain(relu_of_codes), UnsupportedModelError, "Relu of quantizelinear.*int8"),
    "no outputs": (without_outputs, ModelFileError, "no outputs"),
    "one output twice": (output_twice, ModelFileError, "listed twice"),
    "output from nowhere": (output_from_nowhere, ModelFileError, "nowhere is made by no node"),
    "too many channels": (many_channels, ShapeError, "at most 65536 channels"),
    "2^36 channels": (lambda: chain(doubled_34_times), ShapeError, "impossible size"),
    "a name with a line feed": (lambda: with_output_called("a\nb"), ModelFileError, "printable"),
    "a name of 300 letters": (lambda: with_output_called("a" * 300), ModelFileError, "printable"),
    "opset 99": (lambda: of_opset(99), UnsupportedModelError, "newer than the installed onnx"),
    "MaxPool dilations": (
        lambda: pool(6, kernel_shape=[2, 2], dilations=[2, 2]), UnsupportedModelError, "dilations = .2, 2"
    ),
    "ceil_mode of a stream": (
        lambda: pool(4, stream=True, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
        UnsupportedModelError, "pads .0, 0, 1, 1.*same pad on all sides",
    ),
    "MaxPool SAME of a stream": (
        lambda: pool(4, stream=True, kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
        UnsupportedModelError, "same pad on all sides",
    ),
    "MaxPool pads 3, kernel 2": (
        lambda: pool(7, kernel_shape=[2, 2], strides=[2, 2], pads=[3] * 4),
        UnsupportedModelError, "padding alone",
    ),
    "MaxPool kernel 2^20": (
        lambda: pool(2, True, kernel_shape=[1 << 20] * 2, strides=[1 << 20] * 2, pads=[(1 << 20) - 1] * 4),
        UnsupportedModelError, "far larger than its tensor",
    ),
    "Resize by 2.05": (
        lambda: resize((16, 16), [1, 1, 2.05, 2.05]), UnsupportedModelError, "2.049.*whole factors"
    ),
    "Resize by 10^30": (lambda: resize((8, 8), [1, 1, 1e30, 1e30]), ShapeError, "fit together"),
    "antialias": (
        lambda: resize((16, 16), [1, 1, 2, 2], antialias=1), UnsupportedModelError, "antialias = 1"
    ),
    "half_pixel": (
        lambda: resize((16, 16), [1, 1, 2, 2], coordinate_transformation_mode="half_pixel"),
        UnsupportedModelError, "half_pixel with floor; valid: asymmetric with floor",
    ),
    "not_larger": (
        lambda: resize((24, 8), sizes=[1, 4, 24, 8], keep_aspect_ratio_policy="not_larger"),
        UnsupportedModelError, "keep_aspect_ratio_policy",
    ),
}  # fmt: skip
