"""Hand-made integer ONNX models, and onnxruntime as their reference."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from aqd_deploy import targets
from aqd_deploy.integer import dialect
from aqd_deploy.integer.operations.pools import pool_name

UINT8, INT8, INT32 = TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32

# One target an instruction set of the kernels.
TARGETS = ("x86-64-v2", "x86-64-v3", "alderlake", "x86-64-v4", "cascadelake", "sapphirerapids")


def runnable_targets() -> list[str]:
    """The targets of `TARGETS` that this machine can run."""
    cpu = targets.read_cpu()
    return [name for name in TARGETS if not targets.get(name).missing_on(cpu)]


class ModelWriter:
    """Appends dialect nodes; every method returns the name of the tensor it makes."""

    def __init__(self, seed: int = 0) -> None:
        self.generator = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []

    def image(self, name: str, channels: int, height: int, width: int, dtype: int = UINT8) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, dtype, [1, channels, height, width]))
        return name

    def constant(self, array: np.ndarray) -> str:
        name = f"constant{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def weight(self, out_channels: int, in_channels: int, kernel: int, bits: int = 4) -> str:
        """AQD's odd grid of `bits` bits (8: η − 128, all of int8)."""
        shape = (out_channels, in_channels, kernel, kernel)
        if bits == 8:
            return self.constant(self.generator.integers(-128, 128, shape).astype(np.int8))
        codes = self.generator.integers(0, 1 << bits, shape)
        return self.constant((2 * codes - (1 << bits) + 1).astype(np.int8))

    def conv(self, x: str, weight: str, **attributes: object) -> str:
        return self._standard("ConvInteger", [x, weight], **attributes)

    def conv_odd(self, x: str, weight: str, in_channels: int, kernel: int, **attributes: object) -> str:
        ones = self.constant(np.ones((1, in_channels, kernel, kernel), np.int8))
        defaults = {"strides": [1, 1], "pads": [0, 0, 0, 0], "dilations": [1, 1], "group": 1}
        return self._dialect("ConvOdd", [x, weight, ones], **{**defaults, **attributes})

    def bias(self, x: str, channels: int, limit: int = 1000) -> str:
        values = self.generator.integers(-limit, limit, (1, channels, 1, 1)).astype(np.int32)
        return self._standard("Add", [x, self.constant(values)])

    def relu(self, x: str) -> str:
        return self._standard("Max", [x, self.constant(np.array(0, np.int32))])

    def requantize(
        self, x: str, channels: int, shift: int = 40, hi: int = 15, to: int = UINT8, lo: int = 0
    ) -> str:
        parameters = self._multiply_shift(channels, shift, (1 << 30, (1 << 31) - 1))
        return self._dialect("Requantize", [x, *parameters], lo=lo, hi=hi, to=to)

    def requantize_max(self, x: str, channels: int, hi: int = 255, to: int = UINT8, lo: int = 0) -> str:
        """Two slopes, one of them about an eighth of the other."""
        steep, flat = (self._multiply_shift(channels, shift, (1 << 30, (1 << 31) - 1)) for shift in (37, 40))
        return self._dialect("RequantizeMax", [x, *steep, *flat], lo=lo, hi=hi, to=to)

    def multiply_shift(self, x: str, channels: int, shift: int = 20) -> str:
        return self._dialect(
            "MultiplyShift", [x, *self._multiply_shift(channels, shift, (-(1 << 20), 1 << 20))]
        )

    def threshold(self, x: str, channels: int, steps: int = 3, limit: int = 2000) -> str:
        sign = self.constant(self.generator.choice([-1, 1], (1, channels, 1, 1)).astype(np.int32))
        values = np.sort(self.generator.integers(-limit, limit, (steps, 1, channels, 1, 1)), axis=0)
        return self._dialect("Threshold", [x, sign, self.constant(values.astype(np.int32))], lo=0, to=UINT8)

    def skip_add(self, a: str, b: str, channels: int, identity: str = "b") -> str:
        scaled = self._multiply_shift(channels, 20, (1 << 20, 1 << 21))
        one = self.per_channel(np.ones(channels), np.int64)
        zero = self.per_channel(np.zeros(channels), np.int64)
        none = [one, zero, self.per_channel(np.zeros(channels), np.uint64)]
        first, second = (scaled, none) if identity == "b" else (none, scaled)
        return self._dialect("SkipAdd", [a, b, *first, *second])

    def upsample(self, x: str, factor: int) -> str:
        scales = self.constant(np.array([1, 1, factor, factor], np.float32))
        return self._standard(
            "Resize",
            [x, "", scales],
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )

    def max_pool(self, x: str, kernel: int, stride: int, pad: int) -> str:
        """On uint8."""
        return self._standard("MaxPool", [x], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4)

    def max_pool_s32(self, x: str, kernel: int, stride: int, pad: int) -> str:
        return self._dialect(pool_name(kernel, stride, pad), [x])

    def concat(self, *xs: str) -> str:
        return self._standard("Concat", list(xs), axis=1)

    def cast(self, x: str) -> str:
        return self._standard("Cast", [x], to=INT32)

    def pad_image(self, x: str, values: list[int], pad: int) -> str:
        value = self.constant(np.array(values, np.uint8).reshape(1, -1, 1, 1))
        return self._dialect("PadImage", [x, value], pads=[0, 0, pad, pad, 0, 0, pad, pad])

    def pad_signed(self, x: str, values: list[int], pad: int) -> str:
        value = self.constant(np.array(values, np.int8).reshape(1, -1, 1, 1))
        return self._dialect("PadSignedImage", [x, value], pads=[0, 0, pad, pad, 0, 0, pad, pad])

    def table(self, size: int, to: int) -> str:
        limits = np.iinfo(helper.tensor_dtype_to_np_dtype(to))
        values = self.generator.integers(limits.min, limits.max + 1, size)
        return self.constant(values.astype(limits.dtype))

    def lookup(self, x: str, to: int = UINT8) -> str:
        return self._dialect("Lookup", [x, self.table(256, to)], to=to)

    def steps(self, x: str, to: int = UINT8, count: int = 40, limit: int = 20000) -> str:
        thresholds = np.sort(self.generator.integers(-limit, limit, count)).astype(np.int32)
        return self._dialect("Steps", [x, self.constant(thresholds), self.table(count + 1, to)], to=to)

    def pieces(self, x: str, count: int = 40, limit: int = 20000) -> str:
        """Slopes up to ±2, of shifts that differ."""
        thresholds = np.sort(self.generator.choice(np.arange(-limit, limit), count, replace=False))
        shift = self.generator.integers(0, 30, count + 1)
        c, b = (self.generator.integers(-(2 << shift), (2 << shift) + 1) << up for up in (0, 10))
        arrays = (thresholds, np.int32), (c, np.int64), (b, np.int64), (shift, np.uint64)
        return self._dialect("Pieces", [x, *(self.constant(v.astype(t)) for v, t in arrays)])

    def multiply(self, a: str, b: str, a_zero: int = 0, b_zero: int = 0) -> str:
        zeros = [self.constant(np.array(zero, np.int32)) for zero in (a_zero, b_zero)]
        return self._dialect("Multiply", [a, b, *zeros])

    def stream_multiply(self, a: str, b: str, channels: int, shift: int = 24) -> str:
        values = self.generator.integers(-(1 << shift + 8), 1 << shift + 8, channels)
        d = self.per_channel(self.generator.integers(shift, shift + 4, channels), np.uint64)
        return self._dialect("StreamMultiply", [a, b, self.per_channel(values, np.int64), d])

    def sum_pool(
        self,
        x: str,
        kernel: tuple[int, int],
        strides: tuple[int, int] = (1, 1),
        pads: tuple[int, int, int, int] = (0, 0, 0, 0),
        pad_value: int = 0,
    ) -> str:
        geometry = {"kernel_shape": kernel, "strides": strides, "pads": pads}
        return self._dialect("SumPool", [x], **geometry, pad_value=pad_value)

    def stream_sums(
        self,
        x: str,
        kernel: tuple[int, int],
        strides: tuple[int, int] = (1, 1),
        pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    ) -> str:
        return self._dialect("StreamSumPool", [x], kernel_shape=kernel, strides=strides, pads=pads)

    def resize_linear(self, x: str, factors: tuple[int, int], half_pixel: int) -> str:
        return self._dialect("ResizeLinear", [x], factors=factors, half_pixel=half_pixel)

    def slice(self, x: str, *bounds: list[int]) -> str:
        """Starts, ends, axes, steps."""
        return self._standard("Slice", [x, *(self.constant(np.array(b, np.int64)) for b in bounds)])

    def gather(self, x: str, channels: list[int]) -> str:
        return self._standard("Gather", [x, self.constant(np.array(channels, np.int64))], axis=1)

    def depth_to_space(self, x: str, blocksize: int, mode: str) -> str:
        return self._dialect(f"DepthToSpace_{mode}", [x], blocksize=blocksize)

    def rearrange(self, x: str, indices: np.ndarray) -> str:
        return self._dialect("Rearrange", [x, self.constant(indices.astype(np.int32))])

    def clip(self, x: str, channels: int, limit: int = 5000) -> str:
        floor, top = (self.generator.integers(low, low + limit, channels) for low in (-limit, 0))
        above = self._standard("Max", [x, self.per_channel(floor, np.int32)])
        return self._standard("Min", [above, self.per_channel(top, np.int32)])

    def conv_offset(
        self, x: str, outputs: int, inputs: int, kernel: int, group: int, zero: int, **attributes: object
    ) -> str:
        """Weights [outputs, inputs, kernel, kernel] of 9 bits; `zero` is the input's zero point, of its type
        (int8 where it is negative).
        """
        weight = self.weight(outputs, inputs, kernel, 8)
        ones = self.constant(np.ones((outputs if group > 1 else 1, inputs, kernel, kernel), np.int8))
        offset = self.per_channel(self.generator.integers(-127, 129, outputs), np.int32)
        zero_point = self.constant(np.array(zero, np.int8 if zero < 0 else np.uint8))
        defaults = {"strides": [1, 1], "pads": [0, 0, 0, 0], "dilations": [1, 1], "group": group}
        return self._dialect(
            "ConvOffset", [x, weight, ones, offset, zero_point], **{**defaults, **attributes}
        )

    def output(self, x: str, shape: list[int] | None = None, dtype: int = INT32) -> None:
        self.outputs.append(helper.make_tensor_value_info(x, dtype, shape))

    def per_channel(self, values: np.ndarray, dtype: type) -> str:
        return self.constant(np.asarray(values).astype(dtype).reshape(1, -1, 1, 1))

    def model(self, manifest: dict | None = None) -> onnx.ModelProto:
        model = dialect.make_model(self.nodes, self.inputs, self.outputs, self.initializers)
        if manifest is not None:
            helper.set_model_props(model, {"aqd.manifest": json.dumps(manifest)})
        return model

    def _multiply_shift(self, channels: int, shift: int, c_range: tuple[int, int]) -> list[str]:
        c = self.generator.integers(*c_range, channels)
        b = self.generator.integers(0, 1 << (shift + 4), channels)
        return [
            self.per_channel(c, np.int64),
            self.per_channel(b, np.int64),
            self.per_channel(np.full(channels, shift), np.uint64),
        ]

    def _standard(self, op: str, inputs: list[str], **attributes: object) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(dialect.standard_node(op, inputs, name, **attributes))
        return name

    def _dialect(self, op: str, inputs: list[str], **attributes: object) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(dialect.node(op, inputs, name, **attributes))
        return name


def every_operation() -> onnx.ModelProto:
    """A small model with each operation of the dialect in it."""
    w = ModelWriter(seed=5)
    _foreign_operations(w, *_detector_operations(w))
    return w.model({"name": "all", "ranges": {}, "outputs": {}, "lowering": {}})


def _detector_operations(w: ModelWriter) -> tuple[str, str, str, str]:
    """An image, and tensors of one size: a stream, codes without a sign and with one."""
    image = w.image("image", 3, 9, 8)
    padded = w.pad_image(image, [104, 116, 124], 1)
    stem = w.relu(w.bias(w.conv_odd(padded, w.weight(4, 3, 3, 8), 3, 3, strides=[2, 2]), 4))
    pooled = w.max_pool_s32(stem, 2, 1, 0)
    codes = w.requantize(pooled, 4, 44)
    signed = w.requantize(pooled, 4, 44, lo=-128, hi=127, to=INT8)
    zero = w.constant(np.array(3, np.uint8))
    grouped = w._standard("ConvInteger", [codes, w.weight(4, 2, 3, 4), zero], pads=[1, 1, 1, 1], group=2)
    weights = w.weight(4, 4, 1, 3)
    side = w.multiply_shift(w.conv(signed, weights, strides=[1, 1], dilations=[1, 1]), 4)
    stream = w.skip_add(grouped, side, 4)
    level = w.threshold(stream, 4)
    w.output(w.upsample(w.conv(level, weights), 2), [1, 4, 8, 6])
    sizes = w.constant(np.array([1, 4, 8, 3], np.int64))
    words = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    w.output(w._standard("Resize", [stream, "", "", sizes], **words), [1, 4, 8, 3])
    w.output(w.concat(w.cast(codes), stream), [1, 8, 4, 3])
    w.output(w.max_pool(codes, 2, 1, 1), [1, 4, 5, 4], UINT8)
    w.output(w._standard("Add", [stream, side]), [1, 4, 4, 3])
    w.output(w._standard("Identity", [stream]), [1, 4, 4, 3])
    none = w._standard("Constant", [], value=numpy_helper.from_array(np.array(0, np.int32)))
    w.output(w._standard("Max", [stream, none]), [1, 4, 4, 3])
    return image, stream, codes, signed


def _foreign_operations(w: ModelWriter, image: str, stream: str, codes: str, signed: str) -> None:
    """What other networks than AQD's have: `codes` and `signed` are [1, 4, 4, 3], `stream` of their size."""
    looked = w.lookup(signed)
    again = w.lookup(codes, INT8)
    w.output(looked, [1, 4, 4, 3], UINT8)
    w.output(again, [1, 4, 4, 3], INT8)
    w.output(w.multiply(looked, again, 120, -3), [1, 4, 4, 3])
    gate = w.lookup(w.requantize(w.sum_pool(looked, (4, 3)), 4, 44, hi=255))
    w.output(w.multiply(looked, gate, 120, 7), [1, 4, 4, 3])
    w.output(w.sum_pool(again, (3, 2), (2, 1), (1, 0, 1, 1), -9), [1, 4, 2, 3])
    w.output(w.stream_sums(stream, (3, 2), (2, 1), (1, 0, 1, 1)), [1, 4, 2, 3])
    w.output(w.steps(stream, INT8), [1, 4, 4, 3], INT8)
    w.output(w.pieces(stream), [1, 4, 4, 3])
    w.output(w.requantize_max(stream, 4, 127, INT8, -128), [1, 4, 4, 3], INT8)
    w.output(w.stream_multiply(stream, w.stream_sums(stream, (4, 3)), 4), [1, 4, 4, 3])
    w.output(w.resize_linear(stream, (2, 1), 1), [1, 4, 8, 3])
    w.output(w.resize_linear(again, (3, 2), 1), [1, 4, 12, 6])
    w.output(w.resize_linear(looked, (1, 2), 0), [1, 4, 4, 6])
    w.output(w.slice(stream, [1, -3, 0], [3, 9, 3], [1, 2, 3], [1, 2, 2]), [1, 2, 2, 2])
    w.output(w.gather(again, [3, 0, 0, 2]), [1, 4, 4, 3], INT8)
    w.output(w.depth_to_space(stream, 2, "CRD"), [1, 1, 8, 6])
    w.output(w.depth_to_space(looked, 2, "DCR"), [1, 1, 8, 6], UINT8)
    w.output(w.rearrange(stream, np.arange(48)[::-1].reshape(8, 2, 3)), [1, 8, 2, 3])
    w.output(w.rearrange(looked, w.generator.integers(0, 48, (3, 5, 1))), [1, 3, 5, 1], UINT8)
    w.output(w.rearrange(again, np.arange(48).reshape(3, 4, 4)), [1, 3, 4, 4], INT8)
    w.output(w.clip(stream, 4), [1, 4, 4, 3])
    w.output(w.pad_signed(again, [-7, 0, 3, 127], 1), [1, 4, 6, 5], INT8)
    w.output(w.conv_offset(looked, 6, 4, 3, 1, 77), [1, 6, 2, 1])
    w.output(w.conv_offset(again, 4, 1, 3, 4, -5, pads=[1, 1, 1, 1]), [1, 4, 4, 3])


def reference(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What onnxruntime computes."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def random_image(model: onnx.ModelProto, seed: int = 0) -> dict[str, np.ndarray]:
    """Pixels for every input of `model`, any of its type."""
    generator = np.random.default_rng(seed)
    images = {}
    for value in model.graph.input:
        tensor = value.type.tensor_type
        limits = np.iinfo(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        shape = [d.dim_value for d in tensor.shape.dim]
        images[value.name] = generator.integers(limits.min, limits.max + 1, shape, limits.dtype)
    return images


def parallel_network(manifest: dict | None = None) -> onnx.ModelProto:
    """Convolutions that are large enough for loops in parallel; AMX multiplies them by tiles."""
    w = ModelWriter(seed=5)
    image = w.image("image", 3, 32, 32)
    codes = w.requantize(w.conv(image, w.weight(16, 3, 3, 8), pads=[1] * 4), 16)
    w.output(w.bias(w.conv(codes, w.weight(16, 16, 3, 4), pads=[1] * 4), 16))
    w.output(w.relu(w.conv(codes, w.weight(8, 16, 1, 4))))
    return w.model(manifest)


def tiny_network(manifest: dict | None = None) -> onnx.ModelProto:
    """Padded image conv, pool, residual block with a shared head on two levels, upsampling add, concat."""
    w = ModelWriter(seed=1)
    image = w.image("image", 3, 17, 20)
    padded = w.pad_image(image, [104, 116, 124], 1)
    stem = w.relu(w.bias(w.conv_odd(padded, w.weight(8, 3, 3, 8), 3, 3, strides=[2, 2]), 8))
    pooled = w.max_pool_s32(stem, 3, 2, 1)
    q1, q2 = w.requantize(pooled, 8, 44), w.requantize(pooled, 8, 45, hi=3)
    main = w.bias(w.conv(q1, w.weight(8, 8, 3, 4), pads=[1, 1, 1, 1]), 8)
    side = w.bias(w.conv(q2, w.weight(8, 8, 1, 2)), 8)
    stream = w.relu(w.skip_add(main, side, 8))
    deep = w.requantize(stream, 8, 40)
    small = w.relu(w.bias(w.conv(deep, w.weight(8, 8, 3, 3), pads=[1, 1, 1, 1], strides=[5, 5]), 8))
    lateral = w.multiply_shift(w.conv(w.threshold(stream, 8), w.weight(8, 8, 1, 2)), 8)
    merged = w.skip_add(w.upsample(small, 5), lateral, 8, identity="a")
    shared = w.weight(6, 8, 3, 4)
    for level in (small, merged):
        head = w.bias(w.conv(w.requantize(level, 8, 38), shared, pads=[1, 1, 1, 1]), 6)
        w.output(head)
    w.output(w.concat(w.cast(deep), lateral))
    w.output(w.max_pool(deep, 2, 2, 0), dtype=UINT8)
    return w.model(manifest)
