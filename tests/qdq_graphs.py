"""Small random QDQ graphs in the canonical form of docs/qdq-form.md, made from a seed without torch.

`random_graph(seed)` draws a network like a tiny detector: image stem, residual blocks, a pyramid with
upsampling or concat, and a head shared over its levels. `QdqBuilder` makes hand-written graphs for single
cases.
"""

from __future__ import annotations

import json

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class QdqBuilder:
    """Adds nodes of the canonical QDQ form; every method returns the name of the tensor it makes."""

    def __init__(self, seed: int = 0, height: int = 8, width: int = 8, channels: int = 3) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.shape: dict[str, tuple[int, int, int]] = {"image": (channels, height, width)}
        self.inputs = [
            helper.make_tensor_value_info("image", TensorProto.UINT8, [1, channels, height, width])
        ]
        self.outputs: list[str] = []
        self.counter = 0

    def name(self, base: str) -> str:
        """A name that is not taken yet."""
        self.counter += 1
        return f"{base}_{self.counter}"

    def constant(self, base: str, array: np.ndarray) -> str:
        """Adds an initializer."""
        name = self.name(base)
        self.initializers.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def node(
        self, op: str, inputs: list[str], shape: tuple[int, int, int] | None = None, **attributes
    ) -> str:
        """Adds a node; its output has `shape` [C, H, W], by default that of the first input."""
        output = self.name(op.lower())
        self.nodes.append(helper.make_node(op, inputs, [output], name=f"{op}_{output}", **attributes))
        self.shape[output] = shape or self.shape.get(inputs[0], (0, 0, 0))
        return output

    def image(self, means: list[int] | None = None, scale: float = 1.0) -> str:
        """The dequantized image."""
        channels = self.shape["image"][0]
        means = means if means is not None else [104, 116, 124][:channels]
        scales = self.constant("std", np.full(channels, scale, dtype=np.float32))
        zero = self.constant("mean", np.array(means, dtype=np.uint8))
        return self.node("DequantizeLinear", ["image", scales, zero], axis=1)

    def quantize(self, x: str, bits: int, step: float | None = None, signed: bool = False) -> str:
        """Eq. 2: quantize and dequantize; `signed` is the foreign int8 form."""
        levels = 2**bits - 1
        if step is None:
            step = float(self.rng.uniform(1.5, 4.0)) / levels
        scale = self.constant("step", np.array(step, dtype=np.float32))
        kind = np.int8 if signed else np.uint8
        zero = self.constant("zero", np.array(0, dtype=kind))
        q = self.node("QuantizeLinear", [x, scale, zero], self.shape[x])
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, levels)
        if bits < 8:
            bounds = [self.constant("bound", np.array(v, dtype=kind)) for v in (low, high)]
            q = self.node("Clip", [q, *bounds])
        return self.node("DequantizeLinear", [q, scale, zero])

    def weights(
        self,
        out: int,
        inside: int,
        kernel: tuple[int, int],
        bits: int,
        per_channel: bool = False,
        odd: bool = True,
    ) -> str:
        """Eq. 3: dequantized odd weights [out, inside, kh, kw]; `odd=False` is the foreign symmetric int8
        form.
        """
        top = 2**bits - 1
        shape = (out, inside, *kernel)
        if odd:
            q = 2 * self.rng.integers(0, 2**bits, shape) - top
        else:
            q = self.rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), shape)
        wide = odd and bits == 8
        name = self.constant("weight", q.astype(np.int16 if wide else np.int8))
        if odd and not wide:
            bounds = [self.constant("bound", np.array(v, dtype=np.int8)) for v in (-top, top)]
            name = self.node("Clip", [name, *bounds])
        size = out if per_channel else 1
        spread = float(np.abs(q).mean()) * np.sqrt(inside * kernel[0] * kernel[1])
        values = self.rng.uniform(0.5, 1.5, size) / spread
        scale = self.constant("step_w", (values if per_channel else values[0]).astype(np.float32))
        attributes = {"axis": 0} if per_channel else {}
        return self.node("DequantizeLinear", [name, scale], **attributes)

    def conv(
        self,
        x: str,
        out: int,
        bits: int,
        kernel: int = 3,
        stride: int = 1,
        dilation: int = 1,
        group: int = 1,
        bias: bool = False,
        weights: str | None = None,
        per_channel: bool = False,
        odd: bool = True,
    ) -> str:
        """A convolution of quantized x; `weights` shares those of another one."""
        channels, height, width = self.shape[x]
        if weights is None:
            weights = self.weights(out, channels // group, (kernel, kernel), bits, per_channel, odd)
        pad = dilation * (kernel - 1) // 2
        inputs = [x, weights]
        if bias:
            inputs.append(self.constant("bias", self.rng.normal(0, 0.5, out).astype(np.float32)))
        size = tuple((n + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1 for n in (height, width))
        return self.node(
            "Conv",
            inputs,
            (out, *size),
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[pad] * 4,
            dilations=[dilation, dilation],
            group=group,
        )

    def batch_norm(self, x: str, gamma: str = "mixed") -> str:
        """Inference batch norm; `gamma`: positive, mixed (negative ones as well), zero (some), tiny (some),
        hard (all).
        """
        channels = self.shape[x][0]
        g = self.rng.uniform(0.5, 1.5, channels)
        if gamma in ("mixed", "hard"):
            g *= self.rng.choice([1, 1, -1], channels)
        if gamma in ("zero", "hard"):
            g *= self.rng.choice([1, 1, 0], channels)
        if gamma in ("tiny", "hard"):
            g *= self.rng.choice([1, 1, 1e-6, 1e-12], channels)
        parameters = [
            g,
            self.rng.normal(0, 0.5, channels),
            self.rng.normal(0, 0.3, channels),
            self.rng.uniform(0.3, 2.0, channels),
        ]
        names = [self.constant("bn", p.astype(np.float32)) for p in parameters]
        return self.node("BatchNormalization", [x, *names], epsilon=1e-5)

    def relu(self, x: str) -> str:
        """ReLU."""
        return self.node("Relu", [x])

    def add(self, a: str, b: str) -> str:
        """A skip-add, operands in the given order."""
        return self.node("Add", [a, b])

    def max_pool(self, x: str, kernel: int = 3, stride: int = 2, pad: int = 1) -> str:
        """Max pooling."""
        channels, height, width = self.shape[x]
        size = tuple((n + 2 * pad - kernel) // stride + 1 for n in (height, width))
        return self.node(
            "MaxPool", [x], (channels, *size), kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4
        )

    def upsample(self, x: str, factor: int = 2) -> str:
        """Nearest, asymmetric, floor."""
        channels, height, width = self.shape[x]
        scales = self.constant("scales", np.array([1, 1, factor, factor], dtype=np.float32))
        return self.node(
            "Resize",
            [x, "", scales],
            (channels, height * factor, width * factor),
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )

    def concat(self, *parts: str) -> str:
        """Concat along the channels."""
        channels = sum(self.shape[p][0] for p in parts)
        return self.node("Concat", list(parts), (channels, *self.shape[parts[0]][1:]), axis=1)

    def scale(self, x: str, factor: float) -> str:
        """FCOS level scale."""
        return self.node("Mul", [x, self.constant("level_scale", np.array(factor, dtype=np.float32))])

    def output(self, x: str, name: str) -> None:
        """Makes the tensor a graph output called `name`."""
        for node in self.nodes:
            for i, source in enumerate(node.input):
                if source == x:
                    node.input[i] = name
            if node.output[0] == x:
                node.output[0] = name
        self.shape[name] = self.shape[x]
        self.outputs.append(name)

    def build(self, manifest: dict | None = None) -> onnx.ModelProto:
        """The checked model, opset 21, IR 10."""
        outputs = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, *self.shape[name]])
            for name in self.outputs
        ]
        graph = helper.make_graph(self.nodes, "random_qdq", self.inputs, outputs, self.initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        helper.set_model_props(
            model, {"aqd.manifest": json.dumps(manifest or {"schema": 1, "name": "random"})}
        )
        onnx.checker.check_model(model)
        return model


def _residual_block(b: QdqBuilder, x: str, bits: int, gamma: str) -> str:
    """conv-BN-ReLU-conv-BN plus identity or a downsampling convolution, in either order, then ReLU."""
    rng = b.rng
    channels = b.shape[x][0]
    down = bool(rng.random() < 0.5)
    out = int(rng.choice([4, 6, 8])) if down else channels
    stride = int(rng.choice([1, 2])) if down and min(b.shape[x][1:]) >= 4 else 1
    dilation = int(rng.choice([1, 1, 2]))
    groups = [g for g in (1, 2) if channels % g == 0 and out % g == 0]
    group = int(rng.choice(groups)) if bits < 8 else 1
    y = b.quantize(x, bits)
    y = b.conv(y, out, bits, stride=stride, group=group, per_channel=bool(rng.random() < 0.3))
    y = b.relu(b.batch_norm(y, gamma))
    y = b.conv(b.quantize(y, bits), out, bits, dilation=dilation, bias=bool(rng.random() < 0.2))
    y = b.batch_norm(y, gamma)
    skip = x
    if down:
        skip = b.batch_norm(b.conv(b.quantize(x, bits), out, bits, kernel=1, stride=stride), gamma)
    parts = (y, skip) if rng.random() < 0.5 else (skip, y)
    return b.relu(b.add(*parts))


def _pyramid(b: QdqBuilder, fine: str, coarse: str, bits: int, gamma: str) -> list[str]:
    """Two levels: laterals with BN and ReLU, top-down by upsampling and add or concat."""
    rng = b.rng
    channels = 4
    laterals = [
        b.relu(b.batch_norm(b.conv(b.quantize(x, bits), channels, bits, kernel=1), gamma))
        for x in (fine, coarse)
    ]
    factor = b.shape[fine][1] // b.shape[coarse][1]
    top = b.upsample(laterals[1], factor) if factor > 1 else laterals[1]
    merged = b.concat(laterals[0], top) if rng.random() < 0.25 else b.add(laterals[0], top)
    levels = [merged, laterals[1]]
    return [b.relu(b.batch_norm(b.conv(b.quantize(x, bits), channels, bits), gamma)) for x in levels]


def _head(b: QdqBuilder, levels: list[str], bits: int, last_bits: int, gamma: str) -> None:
    """One tower convolution shared over the levels (BN per level) and two output convolutions, FCOS's box
    among them.
    """
    channels = b.shape[levels[0]][0]
    tower = b.weights(channels, channels, (3, 3), bits)
    cls = b.weights(3, channels, (3, 3), last_bits)
    box = b.weights(4, channels, (3, 3), last_bits)
    step = float(b.rng.uniform(1.5, 4.0)) / (2**bits - 1)
    for i, level in enumerate(levels, 3):
        x = b.conv(b.quantize(level, bits, step), channels, bits, weights=tower)
        x = b.relu(b.batch_norm(x, gamma))
        b.output(b.conv(b.quantize(x, last_bits), 3, last_bits, weights=cls, bias=True), f"cls_p{i}")
        y = b.conv(b.quantize(x, last_bits), 4, last_bits, weights=box, bias=True)
        b.output(b.relu(b.scale(y, float(b.rng.uniform(0.5, 2.0)))), f"box_p{i}")


def random_graph(seed: int, bits: int | None = None) -> onnx.ModelProto:
    """A random network with everything the dialect has; `bits` (2, 3, 4 or 8) is drawn where absent."""
    rng = np.random.default_rng(seed + 1_000_003)
    bits = int(rng.choice([2, 3, 4, 8])) if bits is None else bits
    last_bits = 8 if rng.random() < 0.7 else bits
    gamma = str(rng.choice(["positive", "mixed", "zero", "tiny", "hard"]))
    height, width = (int(v) for v in rng.choice([8, 12, 16], 2))
    b = QdqBuilder(seed, height, width)
    means = [int(v) for v in rng.integers(0, 256, 3)] if rng.random() < 0.8 else [0, 0, 0]
    x = b.image(means, scale=float(rng.choice([1.0, 1 / 57.0])))
    kernel = int(rng.choice([3, 7]))
    x = b.conv(x, int(rng.choice([4, 6])), last_bits, kernel=kernel, stride=int(rng.choice([1, 2])))
    x = b.batch_norm(b.scale(x, 1 / 60.0), gamma) if rng.random() < 0.5 else b.batch_norm(x, gamma)
    x = b.relu(x)
    if rng.random() < 0.6:
        x = b.max_pool(x, *((3, 2, 1) if rng.random() < 0.7 else (2, 2, 0)))
    stages = [x]
    for _ in range(int(rng.integers(1, 4))):
        x = _residual_block(b, x, bits, gamma)
        stages.append(x)
    fits = [
        s for s in stages[:-1] if b.shape[s][1] % b.shape[x][1] == 0 and b.shape[s][2] % b.shape[x][2] == 0
    ]
    fits = [s for s in fits if b.shape[s][1] // b.shape[x][1] == b.shape[s][2] // b.shape[x][2]]
    levels = _pyramid(b, fits[-1], x, bits, gamma) if fits and rng.random() < 0.8 else [x]
    _head(b, levels, bits, last_bits, gamma)
    return b.build()


def plain_graph(seed: int, bits: int | None = None) -> onnx.ModelProto:
    """A random network whose values only meet quantizers: no skip-adds, so every decision can be exact."""
    rng = np.random.default_rng(seed + 2_000_003)
    bits = int(rng.choice([2, 3, 4, 8])) if bits is None else bits
    gamma = str(rng.choice(["mixed", "zero", "tiny", "hard"]))
    b = QdqBuilder(seed, 8, 8)
    x = b.relu(b.batch_norm(b.conv(b.image(), 4, 8, stride=int(rng.choice([1, 2]))), gamma))
    if rng.random() < 0.6:
        x = b.max_pool(x)
    for _ in range(2):
        parts = []
        for _ in range(int(rng.choice([1, 2]))):
            y = b.conv(b.quantize(x, bits), 4, bits, dilation=int(rng.choice([1, 2])), per_channel=True)
            parts.append(b.relu(b.batch_norm(y, gamma)))
        x = b.concat(*parts) if len(parts) > 1 else parts[0]
    if rng.random() < 0.5:
        x = b.upsample(x)
    _head(b, [x], bits, 8, gamma)
    return b.build()


def random_image(model: onnx.ModelProto, seed: int) -> np.ndarray:
    """A uint8 image [1, C, H, W] for the model's input."""
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


MOBILENET_V2 = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip
"""Expansion, channels, blocks and stride of each stage."""


def mobilenet_v2(bits: int, size: int = 32) -> onnx.ModelProto:
    """MobileNetV2's convolutions with all activations and sums quantized: 17,848 requantized channels."""
    b = QdqBuilder(bits, size, size)
    bounds = [b.constant("bound", np.array(v, dtype=np.float32)) for v in (0, 6)]

    def block(x: str, out: int, kernel: int = 1, stride: int = 1, group: int = 1, last: bool = False) -> str:
        x = b.conv(x, out, bits, kernel, stride, group=group, per_channel=True, odd=False)
        x = b.batch_norm(x)
        if last:
            return b.quantize(x, bits, 8 / 2**bits, signed=True)
        return b.quantize(b.node("Clip", [x, *bounds]), bits, 6 / 2**bits)

    x = block(b.image(), 32, 3, 2)
    for expansion, out, blocks, first_stride in MOBILENET_V2:
        for index in range(blocks):
            inside = b.shape[x][0]
            y = block(x, inside * expansion) if expansion > 1 else x
            channels, stride = b.shape[y][0], 1 if index else first_stride
            y = block(block(y, channels, 3, stride, channels), out, last=True)
            x = b.quantize(b.add(x, y), bits, 10 / 2**bits, signed=True) if index else y
    b.output(b.conv(block(x, 1280), 10, 8, kernel=1, bias=True), "scores")
    return b.build()
