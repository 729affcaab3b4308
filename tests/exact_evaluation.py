"""The fake-quantized network in exact arithmetic: convolutions in whole numbers, everything else in
rationals.

σ = √(var + ε) enters as a rational within 2^-300 of it, far below the distance of any decision here from
its tie.
"""

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
from onnx import TensorProto, helper, numpy_helper


def rational_root(value, bits=300):
    """√value, exact for squares."""
    product = value.numerator * value.denominator
    root = math.isqrt(product)
    if root * root == product:
        return Fraction(root, value.denominator)
    return Fraction(math.isqrt(product << (2 * bits)), value.denominator << bits)


def fractions_of(array):
    """Every float as the rational it is, in an object array."""
    flat = [Fraction(float(v)) for v in np.asarray(array).ravel()]
    result = np.empty(len(flat), dtype=object)
    result[:] = flat
    return result.reshape(np.asarray(array).shape)


def along_channels(values, channels):
    """Per-tensor or per-channel constants as [1, C, 1, 1]."""
    flat = fractions_of(values).ravel()
    if len(flat) == 1:
        flat = np.repeat(flat, channels)
    return flat.reshape(1, -1, 1, 1)


def pads_of(attributes, sizes, spans, strides):
    """[top, left, bottom, right] as ONNX defines `pads` and `auto_pad`."""
    mode = attributes.get("auto_pad", b"NOTSET").decode()
    if mode == "NOTSET":
        return attributes.get("pads", [0, 0, 0, 0])
    before, after = [0, 0], [0, 0]
    for axis in (0, 1) if mode != "VALID" else ():
        windows = math.ceil(sizes[axis] / strides[axis])
        missing = max((windows - 1) * strides[axis] + spans[axis] - sizes[axis], 0)
        before[axis] = missing // 2 if mode == "SAME_UPPER" else missing - missing // 2
        after[axis] = missing - before[axis]
    return [*before, *after]


class ExactNetwork:
    """Runs a QDQ model; `run` returns every tensor: rationals for real ones, whole numbers for quantized
    ones.

    `positions` holds x / step in front of each quantizer, by the name of its levels.
    """

    def __init__(self, model):
        self.nodes = model.graph.node
        self.constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}

    def run(self, image):
        self.values = {"image": image.astype(np.int64)}
        self.integers = {}
        self.positions = {}
        for node in self.nodes:
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            self.values[node.output[0]] = getattr(self, f"_{node.op_type.lower()}")(node, attributes)
        return self.values

    def _get(self, name):
        return self.constants[name] if name in self.constants else self.values[name]

    def _quantizelinear(self, node, attributes):
        x, step = self.values[node.input[0]], Fraction(self._get(node.input[1]).item())
        kind, zero = helper.tensor_dtype_to_np_dtype(attributes.get("output_dtype", TensorProto.UINT8)), 0
        if len(node.input) > 2:
            kind, zero = self._get(node.input[2]).dtype, self._get(node.input[2]).item()
        info = ml_dtypes.iinfo(kind)
        self.positions[node.output[0]] = x / step
        levels = [min(max(round(v / step) + zero, info.min), info.max) for v in x.ravel()]
        return np.array(levels, dtype=np.int64).reshape(x.shape)

    def _clip(self, node, _):
        low, high = (self._get(name) if name else None for name in (*node.input[1:], "")[:2])
        x = self._get(node.input[0])
        if x.dtype == object:
            bounds = [None if b is None or np.isinf(b) else Fraction(float(b)) for b in (low, high)]
            return np.vectorize(lambda v: self._bounded(v, *bounds), otypes=[object])(x)
        if node.input[0] in self.positions:
            self.positions[node.output[0]] = self.positions[node.input[0]]
        return np.clip(x.astype(np.int64), int(low), int(high))

    @staticmethod
    def _bounded(value, low, high):
        value = value if low is None else max(value, low)
        return value if high is None else min(value, high)

    def _dequantizelinear(self, node, attributes):
        q = self._get(node.input[0]).astype(np.int64)
        scales = self._get(node.input[1])
        zero = (
            self._get(node.input[2]).astype(np.int64) if len(node.input) > 2 else np.zeros(1, dtype=np.int64)
        )
        axis = attributes.get("axis", 1)
        shape = [1] * q.ndim
        shape[axis] = -1
        centred = q - (zero.reshape(shape) if zero.size > 1 else zero.ravel()[0])
        self.integers[node.output[0]] = (centred, scales)
        factors = fractions_of(scales)
        return centred.astype(object) * (factors.reshape(shape) if factors.size > 1 else factors.ravel()[0])

    def _conv(self, node, attributes):
        x, x_scale = self.integers[node.input[0]]
        w, w_scale = self.integers[node.input[1]]
        group, strides = attributes.get("group", 1), attributes.get("strides", [1, 1])
        (sh, sw), (dh, dw), (kh, kw) = strides, attributes.get("dilations", [1, 1]), w.shape[2:]
        spans = [(kh - 1) * dh + 1, (kw - 1) * dw + 1]
        top, left, bottom, right = pads_of(attributes, x.shape[2:], spans, strides)
        padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
        height = (padded.shape[2] - (kh - 1) * dh - 1) // sh + 1
        width = (padded.shape[3] - (kw - 1) * dw - 1) // sw + 1
        out = np.zeros((1, w.shape[0], height, width), dtype=np.int64)
        for o in range(w.shape[0]):
            first = o * group // w.shape[0] * w.shape[1]
            for i in range(kh):
                for j in range(kw):
                    rows = slice(i * dh, i * dh + (height - 1) * sh + 1, sh)
                    columns = slice(j * dw, j * dw + (width - 1) * sw + 1, sw)
                    window = padded[0, first : first + w.shape[1], rows, columns]
                    out[0, o] += np.tensordot(w[o, :, i, j], window, axes=1)
        factor = Fraction(float(x_scale.ravel()[0])) * along_channels(w_scale, w.shape[0])
        result = out.astype(object) * factor
        if len(node.input) > 2:
            result = result + along_channels(self._get(node.input[2]), w.shape[0])
        return result

    def _batchnormalization(self, node, attributes):
        x = self.values[node.input[0]]
        gamma, beta, mean, variance = (along_channels(self._get(n), x.shape[1]) for n in node.input[1:5])
        epsilon = Fraction(float(np.float32(attributes["epsilon"])))
        factor = gamma.copy()
        for c in range(x.shape[1]):
            factor[0, c, 0, 0] = gamma[0, c, 0, 0] / rational_root(variance[0, c, 0, 0] + epsilon)
        return (x - mean) * factor + beta

    def _relu(self, node, _):
        x = self.values[node.input[0]]
        return np.vectorize(lambda v: max(v, Fraction(0)), otypes=[object])(x)

    def _add(self, node, _):
        return self.values[node.input[0]] + self.values[node.input[1]]

    def _mul(self, node, _):
        return self.values[node.input[0]] * Fraction(float(self._get(node.input[1]).ravel()[0]))

    def _identity(self, node, _):
        return self.values[node.input[0]]

    def _concat(self, node, _):
        return np.concatenate([self.values[name] for name in node.input], axis=1)

    def _resize(self, node, _):
        x = self.values[node.input[0]]
        if len(node.input) > 3:
            rows, columns = (
                int(size) // n for size, n in zip(self._get(node.input[3])[2:], x.shape[2:], strict=True)
            )
        else:
            rows, columns = (int(factor) for factor in self._get(node.input[2])[-2:])
        return x.repeat(rows, axis=2).repeat(columns, axis=3)

    def _maxpool(self, node, attributes):
        x = self.values[node.input[0]]
        kernel, strides = attributes["kernel_shape"], attributes.get("strides", [1, 1])
        pads = pads_of(attributes, x.shape[2:], kernel, strides)
        sizes = []
        for n, k, s, before, after in zip(x.shape[2:], kernel, strides, pads[:2], pads[2:], strict=True):
            rest = n + before + after - k
            sizes.append((-(-rest // s) if attributes.get("ceil_mode") else rest // s) + 1)
        out = np.empty((*x.shape[:2], *sizes), dtype=x.dtype)
        for i, j in np.ndindex(*sizes):
            top, left = i * strides[0] - pads[0], j * strides[1] - pads[1]
            window = x[:, :, max(top, 0) : top + kernel[0], max(left, 0) : left + kernel[1]]
            out[:, :, i, j] = window.max(axis=(2, 3))
        return out
