"""Random QDQ graphs over the operations of other networks than AQD's, with quantizers missing here and there:
the codes and outputs of a float64 evaluation, or a refusal with its reason.
"""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from island_agreement import assert_islands_agree
from odd_graphs import quantize
from onnx import TensorProto, helper
from qdq_graphs import QdqBuilder

from aqd_deploy.errors import AqdError, UnsupportedModelError
from aqd_deploy.passes.pipeline import lower

FUNCTIONS = ("Sigmoid", "HardSwish", "LeakyRelu", "Tanh", "Relu", "Mish", "Abs", "Neg", "Softplus")
KINDS = ("function", "silu", "add", "sub", "mul", "concat", "pool", "average", "slice", "pad", "resize",
         "linear", "conv", "depthwise", "transposed", "clip", "scale", "shift", "order",
         "gate", "split", "prelu")  # fmt: skip

BARE = ("function", "silu", "gate", "split", "mul")
"""Writers leave these without a quantizer as often as not."""


class Graphs:
    """Draws one graph. `maps` are the real tensors so far, all of the same 8 x 8 size."""

    def __init__(self, draw):
        self.draw = draw
        self.b = QdqBuilder(draw(st.integers(0, 10_000)), 8, 8, 4)
        self.signed = draw(st.booleans())
        if self.signed:
            self.b.inputs = [helper.make_tensor_value_info("image", TensorProto.INT8, [1, 4, 8, 8])]
        zero = self.b.constant("zero", self.code_type(self.signed)(draw(st.integers(0, 127))))
        scale = self.b.constant("scale", np.float32(draw(st.floats(0.004, 0.03))))
        self.maps = [self.b.node("DequantizeLinear", ["image", scale, zero])]
        self.depths = {self.maps[0]: 4}

    @staticmethod
    def code_type(signed):
        return np.int8 if signed else np.uint8

    def quantized(self, x):
        signed = self.draw(st.booleans())
        zero = self.draw(st.integers(-128, 127)) if signed else self.draw(st.integers(0, 255))
        step = self.draw(st.floats(0.004, 0.06))
        return quantize(self.b, x, step, zero, self.code_type(signed))

    def build(self):
        for _ in range(self.draw(st.integers(2, 7))):
            x = self.draw(st.sampled_from(self.maps))
            kind = self.draw(st.sampled_from(KINDS))
            y = getattr(self, f"_{kind}")(x)
            if self.draw(st.integers(0, 1 if kind in BARE else 4)):
                y = self.quantized(y)
            self.maps.append(y)
        # Without a quantizer behind it, much of the end is a tail.
        last = self.quantized(self.maps[-1]) if self.draw(st.integers(0, 3)) else self.maps[-1]
        self.b.output(self.b.node("Identity", [last]), "out")
        return self.b.build()

    def number(self, low, high):
        return self.b.constant("number", np.float32(self.draw(st.floats(low, high))))

    def other(self, x):
        """A tensor of the same shape."""
        return self.draw(st.sampled_from([m for m in self.maps if self.b.shape[m] == self.b.shape[x]]))

    def _function(self, x):
        return self.b.node(self.draw(st.sampled_from(FUNCTIONS)), [x])

    def _silu(self, x):
        return self.b.node("Mul", [x, self.b.node("Sigmoid", [x])])

    def _add(self, x):
        return self.b.node("Add", [x, self.other(x)])

    def _sub(self, x):
        return self.b.node("Sub", [x, self.other(x)])

    def _mul(self, x):
        return self.b.node("Mul", [x, self.other(x)])

    def _concat(self, x):
        y = self.b.concat(x, self.other(x))
        kept = [self.b.constant("bound", np.array([v])) for v in (1, 5, 1)]
        return self.b.node("Slice", [y, *kept], (4, 8, 8)) if self.b.shape[y][0] > 4 else y

    def _pool(self, x):
        return self.b.node("MaxPool", [x], kernel_shape=[3, 3], pads=[1] * 4, strides=[1, 1])

    def _average(self, x):
        size = {"kernel_shape": [3, 3], "pads": [1] * 4, "strides": [1, 1]}
        return self.b.node("AveragePool", [x], count_include_pad=self.draw(st.integers(0, 1)), **size)

    def _slice(self, x):
        """Every second row and column, each twice."""
        kept = [self.b.constant("bound", np.array(v)) for v in ([1, 0], [8, 8], [2, 3], [2, 2])]
        y = self.b.node("Slice", [x, *kept], (4, 4, 4))
        return self._resized(y, "nearest")

    def _pad(self, x):
        y = self.b.node("Slice", [x, *(self.b.constant("b", np.array([v, v])) for v in (1, 7)),
                                  self.b.constant("b", np.array([2, 3]))], (4, 6, 6))  # fmt: skip
        pads = self.b.constant("pads", np.array([0, 0, 2, 1, 0, 0, 0, 1]))
        value = [] if self.draw(st.booleans()) else [self.number(-1, 1)]
        return self.b.node("Pad", [y, pads, *value], (4, 8, 8))

    def _resized(self, x, mode, **attributes):
        scales = self.b.constant("scales", np.array([1, 1, 2, 2], np.float32))
        place = {"coordinate_transformation_mode": "half_pixel"} | attributes
        return self.b.node("Resize", [x, "", scales], (4, 8, 8), mode=mode, **place)

    def _resize(self, x):
        return self._resized(
            self.b.node("MaxPool", [x], (4, 4, 4), kernel_shape=[2, 2], strides=[2, 2]), "nearest"
        )

    def _linear(self, x):
        y = self.b.node("MaxPool", [x], (4, 4, 4), kernel_shape=[2, 2], strides=[2, 2])
        place = self.draw(st.sampled_from(["half_pixel", "asymmetric"]))
        return self._resized(y, "linear", coordinate_transformation_mode=place)

    def _conv(self, x):
        return self.b.conv(
            x, 4, 7, kernel=self.draw(st.sampled_from([1, 3])), odd=False, bias=True, per_channel=True
        )

    def _depthwise(self, x):
        return self.b.conv(x, 4, 7, group=4, odd=False, per_channel=self.draw(st.booleans()))

    def _transposed(self, x):
        y = self.b.node("MaxPool", [x], (4, 4, 4), kernel_shape=[2, 2], strides=[2, 2])
        kernel, pad = self.draw(st.sampled_from([(2, 0), (4, 1)]))
        weight = self.b.constant(
            "weight", self.b.rng.integers(-128, 128, (4, 4, kernel, kernel)).astype(np.int8)
        )
        w = self.b.node("DequantizeLinear", [weight, self.number(0.001, 0.01)])
        return self.b.node("ConvTranspose", [y, w], (4, 8, 8), strides=[2, 2], pads=[pad] * 4)

    def _clip(self, x):
        return self.b.node("Clip", [x, self.number(-2, 0), self.number(0, 3)])

    def _scale(self, x):
        return self.b.node("Mul", [x, self.number(-2, 2)])

    def _shift(self, x):
        values = self.b.rng.normal(0, 1, self.draw(st.sampled_from([1, 4]))).astype(np.float32)
        return self.b.node("Add", [x, self.b.constant("k", values.reshape(1, -1, 1, 1))])

    def _order(self, x):
        return self.b.node("Gather", [x, self.b.constant("order", np.array([3, 1, 0, 2]))], axis=1)

    def _gate(self, x):
        """Squeeze and excite, with or without quantizers."""
        y = self.b.node("GlobalAveragePool", [x], (4, 1, 1))
        if self.draw(st.booleans()):
            y = self.quantized(y)
        y = self.b.node(self.draw(st.sampled_from(("Sigmoid", "HardSigmoid", "Relu"))), [y])
        return self.b.node("Mul", [x, self.quantized(y) if self.draw(st.booleans()) else y])

    def _split(self, x):
        """One half goes on as it is, beside a function of the other."""
        halves = [
            self.b.node(
                "Slice", [x, *(self.b.constant("b", np.array([v])) for v in (i, i + 2, 1))], (2, 8, 8)
            )
            for i in (0, 2)
        ]
        y = self._function(self.quantized(halves[1]) if self.draw(st.booleans()) else halves[1])
        return self.b.concat(halves[0], y)

    def _prelu(self, x):
        slopes = self.b.rng.normal(0, 0.3, (4, 1, 1)).astype(np.float32)
        return self.b.node("PRelu", [x, self.b.constant("slope", slopes)])


@st.composite
def graphs(draw):
    return Graphs(draw).build()


@settings(max_examples=150)
@given(graphs())
def test_the_meaning_is_kept_or_refused_with_a_reason(model):
    try:
        lower(model)
    except UnsupportedModelError as error:
        assert error.valid or error.received
        return
    except AqdError as error:
        assert str(error)
        return
    assert_islands_agree(model, exact=False)
