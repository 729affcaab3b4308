"""What a quantized ONNX file means, in float64: the yardstick of lowering, which shares nothing with the
passes.

Every real number that depends on an input is a float64; QuantizeLinear is round-half-even of x / scale. What
depends on constants alone is computed in the file's own types, as a runtime computes it when it loads the
file.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, inliner, numpy_helper
from onnx.reference import ReferenceEvaluator


def _erf(x):
    return np.vectorize(math.erf, otypes=[np.float64])(x)


def _sigmoid(x):
    # Neither exponential overflows.
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


def _gelu(x, a):
    if a.get("approximate", b"none") == b"tanh":
        return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return x / 2 * (1 + _erf(x / np.sqrt(2)))


def _f32(value):
    return float(np.float32(value))


def _clip(x, low=None, high=None):
    x = x if low is None else np.maximum(x, low)
    return x if high is None else np.minimum(x, high)


def _softmax(x, a):
    e = np.exp(x - x.max(axis=a.get("axis", -1), keepdims=True))
    return e / e.sum(axis=a.get("axis", -1), keepdims=True)


UNARY = {
    "Relu": lambda x, a: np.maximum(x, 0),
    "LeakyRelu": lambda x, a: np.where(x >= 0, x, x * a.get("alpha", _f32(0.01))),
    "ThresholdedRelu": lambda x, a: np.where(x > a.get("alpha", 1.0), x, 0),
    "Sigmoid": lambda x, a: _sigmoid(x),
    "HardSigmoid": lambda x, a: np.clip(a.get("alpha", _f32(0.2)) * x + a.get("beta", 0.5), 0, 1),
    "HardSwish": lambda x, a: x * np.clip(x / 6 + 0.5, 0, 1),
    "Mish": lambda x, a: x * np.tanh(np.logaddexp(0, x)),
    "Swish": lambda x, a: x * _sigmoid(a.get("alpha", 1.0) * x),
    "Tanh": lambda x, a: np.tanh(x),
    "Elu": lambda x, a: np.where(x >= 0, x, a.get("alpha", 1.0) * np.expm1(np.minimum(x, 0))),
    "Selu": lambda x, a: (
        _f32(a.get("gamma", 1.05070102214813232421875))
        * np.where(x > 0, x, _f32(a.get("alpha", 1.67326319217681884765625)) * np.expm1(np.minimum(x, 0)))
    ),
    "Celu": lambda x, a: np.where(
        x > 0, x, a.get("alpha", 1.0) * np.expm1(np.minimum(x, 0) / a.get("alpha", 1.0))
    ),
    "Softplus": lambda x, a: np.logaddexp(0, x),
    "Softsign": lambda x, a: x / (1 + np.abs(x)),
    "Gelu": _gelu,
    "Erf": lambda x, a: _erf(x),
    "Exp": lambda x, a: np.exp(x),
    "Log": lambda x, a: np.log(x),
    "Sqrt": lambda x, a: np.sqrt(x),
    "Reciprocal": lambda x, a: 1 / x,
    "Abs": lambda x, a: np.abs(x),
    "Neg": lambda x, a: -x,
    "Floor": lambda x, a: np.floor(x),
    "Ceil": lambda x, a: np.ceil(x),
    "Round": lambda x, a: np.rint(x),
    "Identity": lambda x, a: x,
    "Dropout": lambda x, a: x,
    "Softmax": _softmax,
    "GlobalAveragePool": lambda x, a: x.mean(axis=tuple(range(2, x.ndim)), keepdims=True),
    "GlobalMaxPool": lambda x, a: x.max(axis=tuple(range(2, x.ndim)), keepdims=True),
}
MANY = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": lambda x, y: x // y if x.dtype.kind in "iu" else x / y,
    "Pow": np.power,
    "Sum": lambda *x: sum(x[1:], x[0]),
    "Mean": lambda *x: sum(x[1:], x[0]) / len(x),
    "Min": lambda *x: np.minimum.reduce(np.broadcast_arrays(*x)),
    "Max": lambda *x: np.maximum.reduce(np.broadcast_arrays(*x)),
    "PRelu": lambda x, slope: np.where(x >= 0, x, x * slope),
    "Clip": _clip,
    "MatMul": np.matmul,
}
STRUCTURE = {
    *("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split", "Concat", "Gather", "Pad"),
    *("Expand", "Tile", "Shape", "DepthToSpace", "SpaceToDepth", "ReduceMean", "ReduceSum", "ReduceMax"),
    *("ArgMax", "ReduceMin", "Where", "Cast", "Constant", "ConstantOfShape", "Range", "Equal"),
    "GatherND",
}
"""What onnx's own reference computes in any type."""


class Float64Network:
    """A quantized file in float64; functions are inlined first."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = inliner.inline_local_functions(model) if model.functions else model
        self.opset = max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
        self.constants = {t.name: numpy_helper.to_array(t) for t in self.model.graph.initializer}

    def run(
        self, inputs: Mapping[str, np.ndarray], forced: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, np.ndarray]:
        """Every tensor by name: float64, or integers in the file's type. What follows a tensor of `forced`
        reads the value given there, so that each piece between two of them is measured alone; what comes out
        is the value before.
        """
        forced = forced or {}
        computed = {}
        self.values = {name: x.astype(np.float64) if x.dtype.kind == "f" else x for name, x in inputs.items()}
        self.fixed = dict(self.constants)
        for node in self.model.graph.node:
            constant = all(name in self.fixed for name in node.input if name)
            results = self._own_types(node) if constant else self._node(node)
            for name, value in zip(node.output, results, strict=False):
                (self.fixed if constant else self.values)[name] = forced.get(name, value)
                computed[name] = value
        return {**self.fixed, **self.values, **computed}

    def outputs(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The graph's outputs."""
        values = self.run(inputs)
        return {value.name: values[value.name] for value in self.model.graph.output}

    def _own_types(self, node):
        """A node that constants alone decide."""
        if node.op_type in QUANTIZED:
            return self._node(node)
        return self._onnx(node, [self.fixed[name] if name else None for name in node.input])

    def _onnx(self, node, values):
        used = {name: v for name, v in zip(node.input, values, strict=True) if name}
        graph = helper.make_graph(
            [node],
            "one",
            [
                helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
                for n, v in used.items()
            ],
            [helper.make_tensor_value_info(n, TensorProto.UNDEFINED, None) for n in node.output if n],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        return ReferenceEvaluator(model).run(None, used)

    def _node(self, node):
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        values = [self.values.get(n, self.fixed.get(n)) if n else None for n in node.input]
        op = node.op_type
        if op in QUANTIZED:
            return [QUANTIZED[op](*values, **attributes)]
        if op in STRUCTURE:
            return self._onnx(node, values)
        real = [None if v is None else v if v.dtype.kind in "iub" else v.astype(np.float64) for v in values]
        if op in UNARY:
            return [UNARY[op](real[0], attributes)]
        if op in MANY:
            return [MANY[op](*real)]
        return [WINDOWS[op](*real, **attributes)]


def _along(values, ndim, axis):
    values = np.asarray(values)
    if values.size == 1:
        return values.reshape(())
    shape = [1] * ndim
    shape[axis] = -1
    return values.reshape(shape)


def _limits(kind):
    info = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    name = TensorProto.DataType.Name(info)
    bits = int("".join(filter(str.isdigit, name)))
    return (0, 2**bits - 1) if name.startswith("U") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def quantize(x, scale, zero=None, axis=1, output_dtype=0, **_):
    """Codes; of constants in float32, as a runtime folds them (`x` keeps the type that it has)."""
    kind = (
        zero.dtype if zero is not None else helper.tensor_dtype_to_np_dtype(output_dtype or TensorProto.UINT8)
    )
    low, high = _limits(kind)
    steps = _along(scale, x.ndim, axis).astype(x.dtype)
    point = 0 if zero is None else _along(zero, x.ndim, axis).astype(np.int64)
    codes = np.rint(x / steps).astype(np.float64) + point
    return np.clip(codes, low, high).astype(np.int64).astype(kind)


def dequantize(q, scale, zero=None, axis=1, **_):
    """Reals of codes."""
    point = 0 if zero is None else _along(zero, q.ndim, axis).astype(np.int64)
    return (q.astype(np.int64) - point) * _along(scale, q.ndim, axis).astype(np.float64)


def _pads(size, kernel, stride, dilation, before, after, ceil_mode, auto_pad):
    span = (kernel - 1) * dilation + 1
    if auto_pad in (b"SAME_UPPER", b"SAME_LOWER"):
        missing = max((math.ceil(size / stride) - 1) * stride + span - size, 0)
        before, after = sorted((missing // 2, missing - missing // 2), reverse=auto_pad == b"SAME_LOWER")
    elif auto_pad == b"VALID":
        before = after = 0
    count = (size + before + after - span) / stride
    count = (math.ceil(count) if ceil_mode else math.floor(count)) + 1
    # A window of ceil_mode never starts in the padding behind.
    if ceil_mode and (count - 1) * stride >= size + before:
        count -= 1
    return before, after, max((count - 1) * stride + span - size - before - after, 0), count


def _windows(x, kernel, fill, strides=None, pads=None, dilations=None, ceil_mode=0, auto_pad=b"NOTSET"):
    """The windows [N, C, oh, ow, kh, kw] of a [N, C, H, W] tensor."""
    strides, dilations, pads = strides or [1, 1], dilations or [1, 1], pads or [0, 0, 0, 0]
    geometry = [
        _pads(x.shape[2 + i], kernel[i], strides[i], dilations[i], pads[i], pads[i + 2], ceil_mode, auto_pad)
        for i in (0, 1)
    ]
    padding = [(0, 0), (0, 0)] + [(b, a + more) for b, a, more, _ in geometry]
    padded = np.pad(x, padding, constant_values=fill)
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    view = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=(2, 3))
    view = view[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]
    return view[:, :, : geometry[0][3], : geometry[1][3]]


def conv(x, w, bias=None, group=1, kernel_shape=None, **window):
    """Conv of [N, C, H, W]."""
    view = _windows(x, w.shape[2:], 0, **window)
    inside, out = w.shape[1], w.shape[0] // group
    parts = [
        np.einsum(
            "nchwij,ocij->nohw",
            view[:, g * inside : (g + 1) * inside],
            w[g * out : (g + 1) * out],
            optimize=True,
        )
        for g in range(group)
    ]
    y = np.concatenate(parts, axis=1)
    return y if bias is None else y + bias.reshape(1, -1, 1, 1)


def conv_transpose(
    x, w, bias=None, group=1, strides=None, pads=None, dilations=None, output_padding=None, **named
):
    """ConvTranspose by scattering each input element."""
    assert named.get("auto_pad", b"NOTSET") == b"NOTSET" and "output_shape" not in named
    (sh, sw), (dh, dw), pads = strides or [1, 1], dilations or [1, 1], pads or [0, 0, 0, 0]
    more = output_padding or [0, 0]
    (n, c, h, width), (kh, kw), out = x.shape, w.shape[2:], w.shape[1]
    full = np.zeros(
        (
            n,
            out * group,
            (h - 1) * sh + (kh - 1) * dh + 1 + more[0],
            (width - 1) * sw + (kw - 1) * dw + 1 + more[1],
        )
    )
    inside = c // group
    for g, i, j in itertools.product(range(group), range(kh), range(kw)):
        part = slice(g * inside, (g + 1) * inside)
        y = np.einsum("nchw,co->nohw", x[:, part], w[part, :, i, j])
        full[
            :,
            g * out : (g + 1) * out,
            i * dh : i * dh + (h - 1) * sh + 1 : sh,
            j * dw : j * dw + (width - 1) * sw + 1 : sw,
        ] += y
    y = full[:, :, pads[0] : full.shape[2] - pads[2], pads[1] : full.shape[3] - pads[3]]
    return y if bias is None else y + bias.reshape(1, -1, 1, 1)


def gemm(a, b, c=None, alpha=1.0, beta=1.0, transA=0, transB=0):
    """Gemm."""
    y = alpha * ((a.T if transA else a) @ (b.T if transB else b))
    return y if c is None else y + beta * c


def max_pool(x, kernel_shape, storage_order=0, **window):
    """MaxPool of reals or codes."""
    fill = -np.inf if x.dtype.kind == "f" else _limits(x.dtype)[0]
    return _windows(x, kernel_shape, fill, **window).max(axis=(-2, -1))


def average_pool(x, kernel_shape, count_include_pad=0, **window):
    """AveragePool; the padding that ceil_mode adds is never counted."""
    total = _windows(x, kernel_shape, 0, **window).sum(axis=(-2, -1))
    inside = np.ones((1, 1, *x.shape[2:]))
    if count_include_pad and window.get("auto_pad", b"NOTSET") == b"NOTSET":
        pads = window.get("pads") or [0, 0, 0, 0]
        inside = np.pad(inside, [(0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])], constant_values=1)
        window = {**window, "pads": [0, 0, 0, 0]}
    return total / _windows(inside, kernel_shape, 0, **window).sum(axis=(-2, -1))


def batch_norm(x, gamma, beta, mean, variance, epsilon=1e-5, **_):
    """BatchNormalization of inference."""
    g, b, m, v = (_along(p, x.ndim, 1) for p in (gamma, beta, mean, variance))
    return (x - m) / np.sqrt(v + _f32(epsilon)) * g + b


def resize(
    x,
    roi=None,
    scales=None,
    sizes=None,
    mode=b"nearest",
    coordinate_transformation_mode=b"half_pixel",
    nearest_mode=b"round_prefer_floor",
    axes=None,
    **_,
):
    """Nearest and linear Resize, an axis at a time."""
    axes = list(axes) if axes is not None else list(range(x.ndim))
    given = scales if scales is not None and scales.size else None
    for index, axis in enumerate(axes):
        size = x.shape[axis]
        target = math.floor(size * float(given[index])) if given is not None else int(sizes[index])
        factor = float(given[index]) if given is not None else target / size
        i = np.arange(target, dtype=np.float64)
        at = {
            b"asymmetric": i / factor,
            b"half_pixel": (i + 0.5) / factor - 0.5,
            b"pytorch_half_pixel": (i + 0.5) / factor - 0.5 if target > 1 else i * 0,
            b"align_corners": i * (size - 1) / max(target - 1, 1),
        }[coordinate_transformation_mode]
        if mode == b"nearest":
            near = {
                b"floor": np.floor(at),
                b"ceil": np.ceil(at),
                b"round_prefer_floor": np.ceil(at - 0.5),
                b"round_prefer_ceil": np.floor(at + 0.5),
            }[nearest_mode]
            x = np.take(x, np.clip(near, 0, size - 1).astype(int), axis=axis)
        elif target != size:
            low = np.floor(at)
            part = _along(at - low, x.ndim, axis)
            first, second = (np.take(x, np.clip(low + k, 0, size - 1).astype(int), axis=axis) for k in (0, 1))
            x = first * (1 - part) + second * part
    return x


WINDOWS = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Gemm": gemm,
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "BatchNormalization": batch_norm,
    "Resize": resize,
}


def _qlinear(function):
    """A com.microsoft operator: inputs and the output as (tensor, scale, zero point)."""

    def run(*values, **attributes):
        *triples, scale, zero = values
        reals = [dequantize(*triples[i : i + 3]) for i in range(0, len(triples), 3)]
        return quantize(np.asarray(function(*reals, **attributes), np.float64), scale, zero)

    return run


def _qlinear_conv(x, xs, xz, w, ws, wz, ys, yz, bias=None, **window):
    product = np.asarray(xs, np.float32) * np.asarray(ws, np.float32)
    real = None if bias is None else dequantize(bias, product, axis=0)
    return quantize(conv(dequantize(x, xs, xz), dequantize(w, ws, wz, axis=0), real, **window), ys, yz)


def _qgemm(a, a_scale, az, b, bs, bz, c=None, ys=None, yz=None, alpha=1.0, transA=0, transB=0):
    product = np.asarray(a_scale, np.float32) * np.asarray(bs, np.float32) * np.float32(alpha)
    real = gemm(
        dequantize(a, a_scale, az),
        dequantize(b, bs, bz, axis=0 if transB else 1),
        None,
        alpha,
        1.0,
        transA,
        transB,
    )
    real = real if c is None else real + dequantize(c, product, axis=-1)
    return real if ys is None else quantize(real, ys, yz)


def _qlinear_concat(ys, yz, *triples, axis):
    reals = [dequantize(*triples[i : i + 3]) for i in range(0, len(triples), 3)]
    return quantize(np.concatenate(reals, axis), ys, yz)


def _quant(x, scale, zero, bits, signed=1, narrow=0, rounding_mode=b"ROUND"):
    """QONNX's Quant."""
    bits = int(np.asarray(bits).item())
    low = -(2 ** (bits - 1)) + narrow if signed else 0
    high = 2 ** (bits - 1) - 1 if signed else 2**bits - 1 - narrow
    return (np.clip(np.rint(x / scale) + zero, low, high) - zero) * scale.astype(np.float64)


QUANTIZED = {
    "QuantizeLinear": quantize,
    "DequantizeLinear": dequantize,
    "QLinearConv": _qlinear_conv,
    "QLinearMatMul": _qlinear(np.matmul),
    "QLinearAdd": _qlinear(np.add),
    "QLinearMul": _qlinear(np.multiply),
    "QLinearSigmoid": _qlinear(_sigmoid),
    "QLinearLeakyRelu": _qlinear(lambda x, **a: UNARY["LeakyRelu"](x, a)),
    "QLinearGlobalAveragePool": _qlinear(lambda x, channels_last=0: UNARY["GlobalAveragePool"](x, {})),
    "QLinearAveragePool": _qlinear(lambda x, channels_last=0, **window: average_pool(x, **window)),
    "QLinearSoftmax": _qlinear(lambda x, opset=13, **a: UNARY["Softmax"](x, a)),
    "QLinearConcat": _qlinear_concat,
    "QGemm": _qgemm,
    "Quant": _quant,
    "BipolarQuant": lambda x, scale: np.where(x >= 0, 1.0, -1.0) * scale,
}
