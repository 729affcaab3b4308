"""Small QDQ graphs that are unusual and right: LOWERED has a maker of each by its name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from qdq_graphs import QdqBuilder

Change = Callable[[QdqBuilder, str], str]
RELU_ADD = ((0.029681449756026268, 11), (0.02083589695394039, -128), (0.026341242715716362, -128))
"""(step, zero point) of two operands and of the sum's quantizer; int8. a = 5, b = 43 is exactly code 0."""


def chain(change: Change | None = None, bits: int = 4, seed: int = 1, **conv) -> onnx.ModelProto:
    """image → conv → BN → ReLU → quantizer → conv → `change` → output `out`."""
    b = QdqBuilder(seed)
    x = b.relu(b.batch_norm(b.conv(b.image(), 4, 8), "positive"))
    x = b.conv(b.quantize(x, bits), 4, bits, **conv)
    b.output(change(b, x) if change else b.relu(b.batch_norm(x, "positive")), "out")
    return b.build()


def changed(op: str, index: int = 0, model: onnx.ModelProto | None = None, **attributes) -> onnx.ModelProto:
    """`model`, or a chain, with attributes of one node replaced; None takes one away."""
    model = model or chain()
    node = [node for node in model.graph.node if node.op_type == op][index]
    kept = [attribute for attribute in node.attribute if attribute.name not in attributes]
    del node.attribute[:]
    node.attribute.extend(kept)
    for name, value in attributes.items():
        if value is not None:
            node.attribute.append(helper.make_attribute(name, value))
    return model


def with_value(model: onnx.ModelProto, prefix: str, value: float) -> onnx.ModelProto:
    """The model with the first number of the first initializer of that name prefix replaced."""
    tensor = next(t for t in model.graph.initializer if t.name.startswith(prefix))
    array = numpy_helper.to_array(tensor).copy()
    array.ravel()[0] = value
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return model


def renamed(model: onnx.ModelProto, names: dict[str, str]) -> onnx.ModelProto:
    """The model with tensors called otherwise."""
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for tensor in model.graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    return model


def last_weight(model: onnx.ModelProto) -> str:
    return [t.name for t in model.graph.initializer if t.name.startswith("weight")][-1]


def codes(b: QdqBuilder, x: str, step: float, zero: int, kind: type = np.uint8) -> tuple[str, str, str]:
    """QuantizeLinear; its output, scale and zero point."""
    scale = b.constant("step", np.array(step, dtype=np.float32))
    point = b.constant("point", np.array(zero, dtype=kind))
    return b.node("QuantizeLinear", [x, scale, point]), scale, point


def quantize(b: QdqBuilder, x: str, step: float, zero: int, kind: type = np.uint8) -> str:
    return b.node("DequantizeLinear", list(codes(b, x, step, zero, kind)))


def small_conv(b: QdqBuilder, x: str, **conv) -> str:
    """A convolution with foreign int8 weights."""
    return b.conv(x, 4, 7, odd=False, **conv)


def int8_image(zeros: int | list[int], kernel: int = 3, odd: bool = False) -> onnx.ModelProto:
    """An int8 image in front of a convolution, padded where its kernel is 3."""
    b = QdqBuilder(3)
    b.inputs[0] = helper.make_tensor_value_info("image", TensorProto.INT8, [1, 3, 8, 8])
    scale = b.constant("std", np.full(np.shape(zeros), 0.5, dtype=np.float32))
    x = b.node(
        "DequantizeLinear", ["image", scale, b.constant("mean", np.array(zeros, dtype=np.int8))], axis=1
    )
    b.output(b.conv(x, 4, 8 if odd else 7, kernel=kernel, odd=odd), "out")
    return b.build()


def clip_values(low: float, high: float) -> Change:
    """Clip of a real value in front of a quantizer."""

    def change(b: QdqBuilder, x: str) -> str:
        bounds = [b.constant("bound", np.array(v, dtype=np.float32)) for v in (low, high)]
        return b.conv(b.quantize(b.node("Clip", [x, *bounds]), 4, 0.3), 4, 4)

    return change


def clip_codes(*ranges: tuple[int, int]) -> Change:
    """Clips of codes, one behind the other."""

    def change(b: QdqBuilder, x: str) -> str:
        y, scale, zero = codes(b, x, 0.2, 0)
        for low, high in ranges:
            y = b.node("Clip", [y, *(b.constant("bound", np.array(v, dtype=np.uint8)) for v in (low, high))])
        return b.conv(b.node("DequantizeLinear", [y, scale, zero]), 4, 4)

    return change


def pool(size: int | tuple[int, int], stream: bool = False, **attributes) -> onnx.ModelProto:
    """A MaxPool that makes `size` rows and columns of 8; of a stream, or in front of a quantizer."""

    def change(b: QdqBuilder, x: str) -> str:
        y = b.node("MaxPool", [b.relu(x)], (4, *np.broadcast_to(size, 2).tolist()), **attributes)
        return y if stream else b.conv(b.quantize(y, 4, 0.3), 4, 4)

    return chain(change)


def resize(size: tuple[int, int], scales=None, sizes=None, **attributes) -> onnx.ModelProto:
    """A Resize of 8 x 8 by scales or to sizes."""
    modes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}

    def change(b: QdqBuilder, x: str) -> str:
        inputs = [x, "", "" if scales is None else b.constant("scales", np.array(scales, dtype=np.float32))]
        inputs += [] if sizes is None else [b.constant("sizes", np.array(sizes, dtype=np.int64))]
        y = b.node("Resize", inputs, (4, *size), **(modes | attributes))
        return b.conv(b.quantize(y, 4, 0.3), 4, 4)

    return chain(change)


def step_of(model: onnx.ModelProto, index: int, value: float) -> onnx.ModelProto:
    """The model with another step in its quantizer `index`."""
    name = [node for node in model.graph.node if node.op_type == "QuantizeLinear"][index].input[1]
    return with_value(model, name, value)


def relu_of_sum(b: QdqBuilder, x: str) -> str:
    """Two tensors of int8 codes, added, and their sum quantized."""
    (a, zero_a), (c, zero_c), (out, zero_out) = RELU_ADD
    y = b.add(quantize(b, x, a, zero_a, np.int8), quantize(b, x, c, zero_c, np.int8))
    return small_conv(b, quantize(b, b.relu(y), out, zero_out, np.int8))


def outputs(*makers: Change) -> onnx.ModelProto:
    """Several outputs of one stream."""
    b = QdqBuilder(2)
    x = b.relu(b.conv(b.image(), 4, 8))
    for index, name in enumerate([make(b, x) for make in makers]):
        b.output(name, f"out{index}")
    return b.build()


def scaled(factor: float) -> Change:
    return lambda b, x: b.scale(x, factor)


def itself(b: QdqBuilder, x: str) -> str:
    return x


def copied(b: QdqBuilder, x: str) -> str:
    return b.node("Identity", [x])


def quantized_twice() -> onnx.ModelProto:
    b = QdqBuilder(2)
    x = b.quantize(b.relu(b.conv(b.image(), 4, 8)), 8, 0.05)
    y = b.scale(x, 2.0)
    b.output(x, "out0")
    b.output(y, "out1")
    return b.build()


def dequantized_image() -> onnx.ModelProto:
    b = QdqBuilder(2)
    x = b.image([0, 3, 5])
    y = b.conv(x, 4, 8)
    b.output(x, "out0")
    b.output(y, "out1")
    return b.build()


def image_and_codes(kind: int) -> onnx.ModelProto:
    """A concat of the dequantized image and of uint8 codes."""
    b = QdqBuilder(3)
    b.inputs[0] = helper.make_tensor_value_info("image", kind, [1, 3, 8, 8])
    zero = np.array(0, dtype=helper.tensor_dtype_to_np_dtype(kind))
    x = b.node(
        "DequantizeLinear",
        ["image", b.constant("std", np.array(0.1, dtype=np.float32)), b.constant("mean", zero)],
    )
    b.output(b.concat(x, b.quantize(small_conv(b, x), 8, 0.05)), "out")
    return b.build()


def signed_and_unsigned(b: QdqBuilder, x: str) -> str:
    return b.concat(b.quantize(x, 8, 0.03, signed=True), b.quantize(b.relu(x), 8, 0.03))


def weights_along(axis: int) -> Change:
    """int8 weights with one scale a channel along `axis`."""

    def change(b: QdqBuilder, x: str) -> str:
        weight = b.constant("weight", b.rng.integers(-100, 100, (4, 4, 3, 3)).astype(np.int8))
        scale = b.constant("step_w", b.rng.uniform(0.01, 0.1, 4).astype(np.float32))
        w = b.node("DequantizeLinear", [weight, scale], axis=axis)
        return b.conv(b.quantize(b.relu(x), 8, 0.02), 4, 8, weights=w)

    return change


def zero_points_of_uint8(b: QdqBuilder, x: str) -> str:
    """Codes 0 to 9 whose channels stand for values around other codes, also beyond these."""
    y, _, zero = codes(b, x, 0.2, 0)
    y = b.node("Clip", [y, zero, b.constant("bound", np.array(9, dtype=np.uint8))])
    scales = b.constant("step", np.full(4, 0.2, dtype=np.float32))
    zeros = b.constant("point", np.array([0, 3, 9, 200], dtype=np.uint8))
    return small_conv(b, b.node("DequantizeLinear", [y, scales, zeros], axis=-3))


def four_bit_types(b: QdqBuilder, x: str) -> str:
    """Weights of type int4, codes of type uint4."""
    values = b.rng.integers(-8, 8, 4 * 4 * 9).tolist()
    b.initializers.append(helper.make_tensor("weight_s4", TensorProto.INT4, [4, 4, 3, 3], values))
    b.initializers.append(helper.make_tensor("zero_u4", TensorProto.UINT4, [], [3]))
    w = b.node("DequantizeLinear", ["weight_s4", b.constant("step_w", np.array(0.1, dtype=np.float32))])
    scale = b.constant("step", np.array(0.3, dtype=np.float32))
    y = b.node("QuantizeLinear", [x, scale, "zero_u4"])
    return b.conv(b.node("DequantizeLinear", [y, scale, "zero_u4"]), 4, 4, weights=w)


def named_by_output_dtype(b: QdqBuilder, x: str) -> str:
    scale = b.constant("step", np.array(0.03, dtype=np.float32))
    y = b.node("QuantizeLinear", [x, scale], output_dtype=TensorProto.INT8)
    zero = b.constant("zero_s8", np.array(0, dtype=np.int8))
    return small_conv(b, b.node("DequantizeLinear", [y, scale, zero]))


def with_name_of_constant(model: onnx.ModelProto) -> onnx.ModelProto:
    """Two requantized tensors called `y1` and `y1_c`, as the constants of the first would be."""
    quantized = {n.output[0] for n in model.graph.node if n.op_type == "QuantizeLinear"}
    clips = [n.output[0] for n in model.graph.node if n.op_type == "Clip" and n.input[0] in quantized]
    return renamed(model, dict(zip(clips, ("y1", "y1_c"), strict=True)))


def second_conv(b: QdqBuilder, x: str) -> str:
    return b.conv(b.quantize(b.relu(x), 4, 0.3), 4, 4)


def behind(change: Change) -> Change:
    """`change` and then a quantized convolution."""
    return lambda b, x: second_conv(b, change(b, x))


def joined_to_itself(b: QdqBuilder, x: str) -> str:
    return second_conv(b, b.concat(x, x))


def strided(b: QdqBuilder, x: str) -> str:
    return b.conv(b.quantize(x, 4, 0.3), 4, 4, stride=2)


def second_conv_8(b: QdqBuilder, x: str) -> str:
    return b.conv(b.quantize(b.relu(x), 8, 0.3), 4, 8)


def added_to_itself(b: QdqBuilder, x: str) -> str:
    y = b.relu(x)
    return b.relu(b.add(y, y))


def upsampled(b: QdqBuilder, x: str) -> str:
    return b.upsample(b.relu(x))


def taken_weight(change: Change, name: str, bits: int = 4) -> onnx.ModelProto:
    """A graph whose last weight has a name that lowering would like for a constant of its own."""
    model = chain(change, bits)
    return renamed(model, {last_weight(model): name})


def with_second_input() -> onnx.ModelProto:
    model = chain()
    model.graph.input.append(helper.make_tensor_value_info("other", TensorProto.UINT8, [1, 3, 8, 8]))
    return model


def zero_point_a_channel(b: QdqBuilder, x: str) -> str:
    y = codes(b, x, 0.03, 3, np.int8)[0]
    scales = b.constant("step", np.full(4, 0.03, dtype=np.float32))
    zeros = b.constant("point", np.array([1, -2, 3, 4], dtype=np.int8))
    return small_conv(b, b.node("DequantizeLinear", [y, scales, zeros], axis=1))


def output_of_codes() -> onnx.ModelProto:
    model = outputs(lambda b, x: codes(b, x, 0.1, 0)[0])
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.UINT8
    return model


LOWERED: dict[str, Callable[[], onnx.ModelProto]] = {
    **{f"int8 image, zero point {zero}": lambda z=zero: int8_image(z) for zero in (5, -14, -128, 127)},
    "int8 image, equal zero points": lambda: int8_image([9, 9, 9]),
    "int8 image, zero points": lambda: int8_image([1, -2, 3]),
    "int8 zero points a channel": lambda: chain(zero_point_a_channel),
    "an output of codes": output_of_codes,
    "int8 image, zero points, no padding": lambda: int8_image([1, -2, 3], kernel=1),
    "Conv SAME_UPPER": lambda: changed("Conv", 1, auto_pad="SAME_UPPER", pads=None),
    "Conv SAME_LOWER, 2 strides": lambda: changed(
        "Conv", 1, outputs(strided), auto_pad="SAME_LOWER", pads=None
    ),
    "momentum": lambda: changed("BatchNormalization", momentum=0.5),
    "axis -3": lambda: changed("Concat", model=chain(joined_to_itself), axis=-3),
    "weights along axis -4": lambda: chain(weights_along(-4)),
    "uint8 zero points a channel": lambda: chain(zero_points_of_uint8),
    "4-bit types": lambda: chain(four_bit_types),
    "output_dtype": lambda: chain(named_by_output_dtype),
    "denormal step": lambda: step_of(chain(), 0, 1e-45),
    "denormal step, 8 bits": lambda: step_of(chain(bits=8), 0, 1e-45),
    "denormal weight step": lambda: with_value(chain(second_conv), "step_w", 1e-45),
    "huge weight step": lambda: with_value(chain(second_conv), "step_w", 3e38),
    "huge step": lambda: step_of(chain(second_conv_8), 1, 3e38),
    "Relu, zero point 255": lambda: chain(lambda b, x: small_conv(b, quantize(b, b.relu(x), 0.05, 255))),
    "Clip(3, 3)": lambda: chain(clip_values(3, 3)),
    "Clip(5, 2)": lambda: chain(clip_values(5, 2)),
    "Clip to infinity": lambda: chain(clip_values(0, np.inf)),
    "Clip(3, 3) of codes": lambda: chain(clip_codes((3, 3))),
    "Clip of codes beyond their range": lambda: chain(clip_codes((0, 9), (20, 30))),
    "a weight called zero": lambda: taken_weight(behind(added_to_itself), "zero"),
    "a weight called scales_2x2": lambda: taken_weight(behind(upsampled), "scales_2x2"),
    "a weight called ones_1x4x3x3": lambda: taken_weight(second_conv_8, "ones_1x4x3x3"),
    "y1 and y1_c": lambda: with_name_of_constant(chain(second_conv)),
    "int8 and uint8 in one Concat": lambda: chain(signed_and_unsigned),
    "int8 and uint8 behind one quantizer": lambda: chain(behind(signed_and_unsigned)),
    "int8 image and uint8 codes": lambda: image_and_codes(TensorProto.INT8),
    "uint8 image and uint8 codes": lambda: image_and_codes(TensorProto.UINT8),
    "outputs of one tensor": lambda: outputs(itself, copied),
    "outputs of equal integers": lambda: outputs(itself, scaled(2.0), scaled(3.0), copied, second_conv),
    "outputs of equal codes": quantized_twice,
    "the image is an output": dequantized_image,
    "an input that nothing reads": with_second_input,
    "x + x": lambda: chain(added_to_itself),
    "ceil_mode": lambda: pool(4, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    "ceil_mode with pads": lambda: pool(5, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4, ceil_mode=1),
    "ceil_mode of a stream, whole windows": lambda: pool(
        3, stream=True, kernel_shape=[2, 2], strides=[3, 3], ceil_mode=1
    ),
    "MaxPool SAME_UPPER": lambda: pool(4, kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
    "MaxPool SAME_LOWER": lambda: pool(4, kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_LOWER"),
    "MaxPool VALID": lambda: pool(6, kernel_shape=[3, 3], auto_pad="VALID"),
    "MaxPool without strides, of a stream": lambda: pool(6, stream=True, kernel_shape=[3, 3]),
    "storage_order": lambda: pool(4, kernel_shape=[2, 2], strides=[2, 2], storage_order=1),
    "Resize by axes": lambda: resize((16, 16), [2, 2], axes=[2, 3]),
    "Resize to sizes": lambda: resize((16, 16), sizes=[1, 4, 16, 16]),
    "Resize 2 x 3": lambda: resize((16, 24), [1, 1, 2, 3]),
    "a requantized sum": lambda: chain(relu_of_sum),
}  # fmt: skip


def inputs_of(model: onnx.ModelProto, seed: int = 0) -> dict[str, np.ndarray]:
    """Random codes over the whole type of every input."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for value in model.graph.input:
        kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        info = np.iinfo(kind)
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        arrays[value.name] = rng.integers(info.min, info.max + 1, shape).astype(kind)
    return arrays
