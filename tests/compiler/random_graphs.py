"""Random integer ONNX graphs, and many of them merged into one disjoint model that is compiled once.

A graph's structure and its numbers have seeds of their own: graphs of one structure share their kernels, so
that hundreds of graphs compile in the time of a few dozen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from small_models import INT8, UINT8, ModelWriter

from aqd_deploy.integer import dialect

KERNELS = [(1, 1), (3, 3), (3, 3), (3, 3), (1, 3), (2, 2), (5, 5), (7, 7)]
CHANNELS = [1, 3, 4, 8, 15, 16, 17, 32, 36]


@dataclass
class Value:
    """A tensor of the graph under construction; `kind` is u8, s8 or s32."""

    name: str
    channels: int
    height: int
    width: int
    kind: str


class RandomGraph:
    """Grows a graph by random operations on random tensors of it."""

    def __init__(self, structure_seed: int, value_seed: int, operations: int = 7) -> None:
        self.choose = np.random.default_rng(structure_seed)
        self.w = ModelWriter(value_seed)
        height, width = (int(v) for v in self.choose.integers(3, 13, 2))
        channels = int(self.choose.choice([1, 3, 4, 8, 16, 20]))
        image = self.w.image("image", channels, height, width)
        self.quantized = [Value(image, channels, height, width, "u8")]
        self.streams: list[Value] = []
        self.used: set[str] = set()
        self.weights: dict[tuple[int, ...], str] = {}
        if self.choose.random() < 0.4:
            self._pad()
        self._conv()
        for _ in range(operations):
            grow = self.choose.choice(self.ways)
            grow()

    @property
    def ways(self) -> list[Callable[[], None]]:
        """The operations to choose from."""
        return [self._conv, self._quantize, self._step, self._pool, self._join, self._upsample]

    def model(self) -> onnx.ModelProto:
        """The graph with every unread tensor as an output."""
        for value in self.streams + self.quantized[1:]:
            if value.name not in self.used:
                self.w.output(
                    value.name, [1, value.channels, value.height, value.width], _ONNX_TYPES[value.kind]
                )
        return self.w.model()

    def _pick(self, values: Sequence[Value]) -> Value:
        value = values[int(self.choose.integers(len(values)))]
        self.used.add(value.name)
        return value

    def _pad(self) -> None:
        x = self._pick(self.quantized)
        pad = int(self.choose.integers(1, 4))
        values = self.choose.integers(0, 256, x.channels).tolist()
        name = self.w.pad_image(x.name, values, pad)
        self.quantized.append(Value(name, x.channels, x.height + 2 * pad, x.width + 2 * pad, "u8"))

    def _conv(self) -> None:
        x = self._pick(self.quantized)
        kernel = KERNELS[int(self.choose.integers(len(KERNELS)))]
        strides = [int(v) for v in self.choose.choice([1, 1, 1, 2, 3], 2)]
        dilations = [int(v) for v in self.choose.choice([1, 1, 1, 1, 2], 2)]
        spans = [(kernel[i] - 1) * dilations[i] + 1 for i in range(2)]
        pads = [int(self.choose.integers(0, spans[i % 2] // 2 + 1)) for i in range(4)]
        height = (x.height + pads[0] + pads[2] - spans[0]) // strides[0] + 1
        width = (x.width + pads[1] + pads[3] - spans[1]) // strides[1] + 1
        out_channels = int(self.choose.choice(CHANNELS))
        odd = x.kind == "u8" and self.choose.random() < 0.25
        groups = [g for g in (1, 2, 4, x.channels) if x.channels % g == 0 and out_channels % g == 0]
        group = 1 if odd or self.choose.random() < 0.7 else int(self.choose.choice(groups))
        bits = 8 if odd else int(self.choose.integers(2, 9))
        if height < 1 or width < 1:
            return
        shape = (out_channels, x.channels // group, *kernel)
        weight = self._weight(shape, bits)
        attributes = {"strides": strides, "pads": pads, "dilations": dilations, "group": group}
        if odd:
            ones = self.w.constant(np.ones((1, x.channels, *kernel), np.int8))
            name = self.w._dialect("ConvOdd", [x.name, weight, ones], **attributes)
        else:
            name = self.w.conv(x.name, weight, **attributes)
        self._stream(name, out_channels, height, width)
        if self.choose.random() < 0.7:
            self._step(self.streams[-1])

    def _weight(self, shape: tuple[int, ...], bits: int) -> str:
        """New weights, or those of an earlier convolution of the same shape: a shared head."""
        key = (*shape, bits)
        if key not in self.weights or self.choose.random() < 0.5:
            codes = self.w.generator.integers(0, 1 << bits, shape)
            weight = codes - 128 if bits == 8 else 2 * codes - (1 << bits) + 1
            self.weights[key] = self.w.constant(weight.astype(np.int8))
        return self.weights[key]

    def _stream(self, name: str, channels: int, height: int, width: int) -> None:
        self.streams.append(Value(name, channels, height, width, "s32"))

    def _step(self, value: Value | None = None) -> None:
        x = value or self._pick(self.streams)
        self.used.add(x.name)
        kind = self.choose.integers(4)
        if kind == 0:
            name = self.w.bias(x.name, x.channels)
        elif kind == 1:
            name = self.w.relu(x.name)
        elif kind == 2:
            name = self.w.multiply_shift(x.name, x.channels)
        else:
            name = self.w.relu(self.w.bias(x.name, x.channels))
        self._stream(name, x.channels, x.height, x.width)

    def _quantize(self) -> None:
        x = self._pick(self.streams)
        kind = self.choose.integers(4)
        shift = int(self.choose.choice([36, 40, 44]))
        hi = int(self.choose.choice([3, 7, 15, 255]))
        if kind == 0:
            name, dtype = (
                self.w.threshold(x.name, x.channels, steps=int(self.choose.choice([3, 7, 15]))),
                "u8",
            )
        elif kind == 1:
            name, dtype = self.w.requantize(x.name, x.channels, shift, lo=-128, hi=127, to=INT8), "s8"
        else:
            name, dtype = self.w.requantize(x.name, x.channels, shift, hi=hi, to=UINT8), "u8"
        self.quantized.append(Value(name, x.channels, x.height, x.width, dtype))

    def _pool(self) -> None:
        kernel, stride = int(self.choose.integers(2, 4)), int(self.choose.integers(1, 3))
        pad = int(self.choose.integers(0, kernel // 2 + 1))
        stream = self.choose.random() < 0.5
        x = self._pick(self.streams if stream else self.quantized)
        height, width = ((v + 2 * pad - kernel) // stride + 1 for v in (x.height, x.width))
        if height < 1 or width < 1:
            return
        pool = self.w.max_pool_s32 if stream else self.w.max_pool
        value = Value(pool(x.name, kernel, stride, pad), x.channels, height, width, x.kind)
        (self.streams if stream else self.quantized).append(value)

    def _join(self) -> None:
        """A skip-add with a tensor of the same shape, or a concat with one of the same size."""
        a = self._pick(self.streams)
        same_size = [v for v in self.streams if (v.height, v.width) == (a.height, a.width) and v is not a]
        same_shape = [v for v in same_size if v.channels == a.channels]
        if same_shape and self.choose.random() < 0.7:
            b = self._pick(same_shape)
            side = str(self.choose.choice(["a", "b"]))
            self._stream(self.w.skip_add(a.name, b.name, a.channels, side), a.channels, a.height, a.width)
        elif same_size:
            b = self._pick(same_size)
            self._stream(self.w.concat(a.name, b.name), a.channels + b.channels, a.height, a.width)
        else:
            same = [v for v in self.quantized[1:] if (v.height, v.width) == (a.height, a.width)]
            if same:
                b = self._pick(same)
                joined = self.w.concat(a.name, self.w.cast(b.name))
                self._stream(joined, a.channels + b.channels, a.height, a.width)

    def _upsample(self) -> None:
        """Pool, then upsample back where the size allows it, and add: the FPN's form."""
        x = self._pick(self.streams)
        factor = int(self.choose.choice([2, 3]))
        if x.height % factor or x.width % factor:
            return
        small = self.w.max_pool_s32(x.name, factor, factor, 0)
        merged = self.w.skip_add(self.w.upsample(small, factor), x.name, x.channels, "a")
        self._stream(merged, x.channels, x.height, x.width)


_ONNX_TYPES = {"u8": UINT8, "s8": INT8, "s32": onnx.TensorProto.INT32}


def random_model(structure_seed: int, value_seed: int) -> onnx.ModelProto:
    """One random integer graph."""
    return RandomGraph(structure_seed, value_seed).model()


def merge(models: Sequence[onnx.ModelProto]) -> onnx.ModelProto:
    """One model of all `models` side by side; tensor t of model i becomes `g{i}_t`."""
    nodes, inputs, outputs, initializers = [], [], [], []
    for i, model in enumerate(models):
        for node in model.graph.node:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.name = f"g{i}_{node.name}"
            copy.input[:] = [f"g{i}_{name}" if name else "" for name in node.input]
            copy.output[:] = [f"g{i}_{name}" for name in node.output]
            nodes.append(copy)
        for source, target in (
            (model.graph.input, inputs),
            (model.graph.output, outputs),
            (model.graph.initializer, initializers),
        ):
            for value in source:
                copy = type(value)()
                copy.CopyFrom(value)
                copy.name = f"g{i}_{value.name}"
                target.append(copy)
    return dialect.make_model(nodes, inputs, outputs, initializers)
