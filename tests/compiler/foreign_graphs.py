"""Random integer graphs as other networks than AQD's have them: sums and products of codes, tables, cuts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from foreign_words import declare
from random_graphs import RandomGraph, Value
from small_models import INT8, UINT8


class ForeignGraph(RandomGraph):
    """Grows by the words of such networks, beside convolutions and quantizers."""

    @property
    def ways(self) -> list[Callable[[], None]]:
        chains = [self._conv_chain, self._conv_chain, self._conv_chain, self._add, self._product, self._gate]
        return [*chains, self._table, self._steps, self._clip, self._select, self._shuffle, self._sum,
                self._linear, self._wide]  # fmt: skip

    def model(self) -> onnx.ModelProto:
        model = super().model()
        declare(model)
        return model

    def _codes(self) -> Value:
        return self._pick(self.quantized)

    def _add_codes(self, name: str, like: Value, kind: str, channels: int = 0) -> Value:
        value = Value(name, channels or like.channels, like.height, like.width, kind)
        self.quantized.append(value)
        return value

    def _requantized(self, stream: str, like: Value, shift: int = 40, channels: int = 0) -> Value:
        count = channels or like.channels
        self.used.add(stream)
        if self.choose.random() < 0.5:
            name, kind = self.w.requantize(stream, count, shift, lo=-128, hi=127, to=INT8), "s8"
        else:
            name, kind = self.w.requantize(stream, count, shift, hi=255), "u8"
        return self._add_codes(name, like, kind, count)

    def _looked_up(self, x: Value) -> Value:
        self.used.add(x.name)
        to, kind = ((UINT8, "u8"), (INT8, "s8"))[int(self.choose.integers(2))]
        return self._add_codes(self.w.lookup(x.name, to), x, kind)

    def _conv_chain(self) -> None:
        """A convolution, often with its quantizer, a table, and a sum behind it."""
        before = len(self.streams)
        self._conv()
        if len(self.streams) == before or self.choose.random() < 0.2:
            return
        x = self.streams[-1]
        codes = self._requantized(x.name, x, 44)
        if self.choose.random() < 0.3:
            codes = self._looked_up(codes)
        if self.choose.random() < 0.6:
            self._sum_with(codes)

    def _sum_with(self, a: Value) -> None:
        """A requantized add, where there are other codes of that shape."""
        same = [v for v in self.quantized if v is not a and _shape(v) == _shape(a)]
        if not same:
            return
        b = self._pick(same)
        self.used.add(a.name)
        sides = [self.w.cast(v.name) for v in (a, b)]
        if self.choose.random() < 0.5:
            sides.reverse()
        constants = [c for _ in range(2) for c in self.w._multiply_shift(a.channels, 20, (1 << 26, 1 << 28))]
        total = self.w._dialect("SkipAdd", [*sides, *constants])
        if self.choose.random() < 0.7:
            self._requantized(total, a, 36)
        else:
            self._stream(total, a.channels, a.height, a.width)

    def _add(self) -> None:
        self._sum_with(self._codes())

    def _product(self) -> None:
        """Often of a tensor and its own table, as in SiLU."""
        x = self._codes()
        other = self._looked_up(x) if self.choose.random() < 0.6 else x
        self.used.add(other.name)
        pair = [x, other] if self.choose.random() < 0.5 else [other, x]
        self._requantized(self.w.multiply(pair[0].name, pair[1].name, 3, -5), x)

    def _gate(self) -> None:
        """Squeeze and excite."""
        x = self._codes()
        if x.height > 16 or x.width > 16:
            return
        total = self.w.sum_pool(x.name, (x.height, x.width))
        one = Value("", x.channels, 1, 1, "s32")
        gate = self._looked_up(self._requantized(total, one))
        self.used.add(gate.name)
        self._requantized(self.w.multiply(x.name, gate.name, 100, 7), x)

    def _table(self) -> None:
        self._looked_up(self._codes())

    def _steps(self) -> None:
        x = self._pick(self.streams)
        to, kind = ((UINT8, "u8"), (INT8, "s8"))[int(self.choose.integers(2))]
        count = int(self.choose.choice([1, 17, 200]))
        self._add_codes(self.w.steps(x.name, to, count, 1 << 16), x, kind)

    def _clip(self) -> None:
        x = self._pick(self.streams)
        self._stream(self.w.clip(x.name, x.channels), x.channels, x.height, x.width)

    def _select(self) -> None:
        """A slice of codes or of a stream, along one axis or all."""
        x = self._pick([*self.quantized, *self.streams])
        sizes = (x.channels, x.height, x.width)
        starts = [int(self.choose.integers(0, size)) for size in sizes]
        steps = [int(self.choose.choice([1, 1, 2])) for _ in sizes]
        name = self.w.slice(x.name, starts, [1 << 40] * 3, [1, 2, 3], steps)
        left = [-(-(size - start) // step) for size, start, step in zip(sizes, starts, steps, strict=True)]
        value = Value(name, *left, x.kind)
        (self.streams if x.kind == "s32" else self.quantized).append(value)

    def _shuffle(self) -> None:
        x = self._pick([*self.quantized, *self.streams])
        if x.channels % 4 == 0 and self.choose.random() < 0.5:
            mode = str(self.choose.choice(["CRD", "DCR"]))
            name = self.w.depth_to_space(x.name, 2, mode)
            value = Value(name, x.channels // 4, 2 * x.height, 2 * x.width, x.kind)
        else:
            order = np.random.default_rng(x.channels).permutation(x.channels).tolist()
            value = Value(self.w.gather(x.name, order), x.channels, x.height, x.width, x.kind)
        (self.streams if x.kind == "s32" else self.quantized).append(value)

    def _sum(self) -> None:
        x = self._codes()
        if x.height < 2 or x.width < 2:
            return
        name = self.w.sum_pool(x.name, (2, 2), (1, 2), (1, 1, 0, 0), 9)
        like = Value("", x.channels, x.height, (x.width - 1) // 2 + 1, "s32")
        self._requantized(name, like)

    def _linear(self) -> None:
        x = self._codes()
        if max(x.height, x.width) > 16:
            return
        factors = tuple(int(f) for f in self.choose.integers(1, 4, 2))
        like = Value("", x.channels, x.height * factors[0], x.width * factors[1], "s32")
        name = self.w.resize_linear(x.name, factors, int(self.choose.integers(2)))
        self._requantized(name, like)

    def _wide(self) -> None:
        """Weights of 9 bits."""
        x = self._codes()
        zero = -3 if x.kind == "s8" else 5
        group = x.channels if self.choose.random() < 0.5 else 1
        inputs = x.channels // group
        name = self.w.conv_offset(x.name, x.channels, inputs, 3, group, zero, pads=[1, 1, 1, 1])
        self._stream(name, x.channels, x.height, x.width)
        if self.choose.random() < 0.5:
            self._requantized(name, x, 44)


def _shape(value: Value) -> tuple[int, int, int]:
    return value.channels, value.height, value.width


def foreign_model(structure_seed: int, value_seed: int) -> onnx.ModelProto:
    """One random graph."""
    return ForeignGraph(structure_seed, value_seed, 9).model()
