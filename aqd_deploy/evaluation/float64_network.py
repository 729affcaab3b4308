"""The fake-quantized network in float64: what a canonical QDQ file means, without the rounding of float32.

A convolution of codes by constant codes is a sum of whole numbers, which stays exact; its scales are
multiplied in once. Everything else is float64, about 2^-52 of a value a step. It shares no code with the
passes, whose result it is held against.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from aqd_deploy.errors import ShapeError, UnsupportedModelError, line_of
from aqd_deploy.evaluation.float64_windows import convolve, max_pool

Array = np.ndarray
_EXACT_IN_FLOAT32 = 1 << 24
"""Sums of whole numbers below this are whole in float32, which is twice as fast."""


class Float64Network:
    """A canonical QDQ file (`Canonicalise`), one image after the other."""

    def __init__(self, model: ModelProto, wanted: Collection[str]) -> None:
        """`wanted` are the tensors that are visited."""
        graph = model.graph
        self._opset = max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
        self._fixed: dict[str, Array] = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        self._whole: dict[str, tuple[Array, Array]] = {}
        self._wanted = frozenset(wanted)
        self._nodes: list[NodeProto] = []
        self._attributes: dict[str, dict[str, Any]] = {}
        for node in graph.node:
            self._attributes[node.output[0]] = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            if all(name in self._fixed for name in node.input if name):
                self._fixed[node.output[0]] = self._value(node, self._fixed, self._whole)
            else:
                self._nodes.append(node)
        self.inputs = [value.name for value in graph.input if value.name not in self._fixed]
        self._last = {name: index for index, node in enumerate(self._nodes) for name in node.input}

    def run(self, feeds: Mapping[str, Array], forced: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """What `visit` visits, by name."""
        found: dict[str, Array] = {}
        self.visit(feeds, found.__setitem__, forced)
        return found

    def visit(
        self,
        feeds: Mapping[str, Array],
        visitor: Callable[[str, Array], None],
        forced: Mapping[str, Array] | None = None,
    ) -> None:
        """Hands each wanted tensor and its name to `visitor` when it is computed: float64, or codes in the
        file's type. Only what is still to be read stays in memory.

        What reads a tensor of `forced` gets the value given there in its place, so that each piece of the
        network between two of them is seen alone; what is visited is the value before. Raises ShapeError for
        a missing input or a forced value of another shape, UnsupportedModelError for a node that can't be
        evaluated.
        """
        missing = [name for name in self.inputs if name not in feeds]
        if missing:
            raise ShapeError(f"input {missing[0]} is missing", received=", ".join(feeds) or "no inputs")
        forced = forced or {}
        values = {name: np.asarray(feeds[name]) for name in self.inputs}
        whole: dict[str, tuple[Array, Array]] = {}
        for name in self._wanted & values.keys():
            visitor(name, values[name])
        for index, node in enumerate(self._nodes):
            name = node.output[0]
            values[name] = self._value(node, self._read(node, values), ChainMap(whole, self._whole), whole)
            if name in self._wanted:
                visitor(name, values[name])
            if name in forced:
                values[name] = _in_place_of(name, values[name], forced[name])
            for read in node.input:
                if self._last.get(read) == index:
                    values.pop(read, None)
                    whole.pop(read, None)

    def _read(self, node: NodeProto, values: Mapping[str, Array]) -> dict[str, Array]:
        return {name: values[name] if name in values else self._fixed[name] for name in node.input if name}

    def _value(
        self,
        node: NodeProto,
        values: Mapping[str, Array],
        known: Mapping[str, tuple[Array, Array]],
        into: dict[str, tuple[Array, Array]] | None = None,
    ) -> Array:
        """What a node makes. `known` are whole numbers and scales of dequantized tensors, which are added to
        `into`.
        """
        attributes = self._attributes[node.output[0]]
        given: list[Any] = [values[name] if name else None for name in node.input]
        if node.op_type == "DequantizeLinear":
            centred, scale = _centred(*given, axis=attributes.get("axis", 1))
            (self._whole if into is None else into)[node.output[0]] = centred, scale
            return centred * scale
        if node.op_type == "Conv" and all(name in known for name in node.input[:2]):
            return _convolution(known[node.input[0]], known[node.input[1]], given[2:], attributes)
        if node.op_type in _OURS:
            real = [each if each is None or _is_whole(each) else _double(each) for each in given]
            value = _OURS[node.op_type](real, attributes)
            if value is not None:
                return value
        return self._by_onnx(node, values)

    def _by_onnx(self, node: NodeProto, values: Mapping[str, Array]) -> Array:
        """By ONNX's own reference, floats as float64 where the operator lets them be."""
        sizes = node.op_type in ("Resize", "Range", "ConstantOfShape")
        used: dict[str, Array] = {}
        for name in node.input:
            if name:
                as_it_is = _is_whole(values[name]) or (sizes and name in self._fixed)
                used[name] = values[name] if as_it_is else _double(values[name])
        inputs = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            for name, value in used.items()
        ]
        output = helper.make_tensor_value_info(node.output[0], TensorProto.UNDEFINED, None)
        graph = helper.make_graph([node], "one", inputs, [output])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self._opset)])
        try:
            results: Any = ReferenceEvaluator(model).run(None, used)
            return np.asarray(results[0])
        except Exception as error:  # whatever an operator of the reference raises
            raise UnsupportedModelError(
                f"node {node.name or node.output[0]} can't be evaluated in float64",
                received=f"{node.op_type}: {line_of(error)}",
                valid="operators of canonical QDQ files",
            ) from error


def _is_whole(values: Array) -> bool:
    """Also of types of 4 bits, which numpy doesn't count among its integers."""
    return str(values.dtype).startswith(("int", "uint", "bool"))


def _double(values: Array) -> Array:
    return values.astype(np.float64)


def _in_place_of(name: str, value: Array, forced: Array) -> Array:
    if forced.shape != value.shape:
        raise ShapeError(
            f"{name} has another shape than the value in its place",
            received=list(forced.shape),
            valid=str(list(value.shape)),
        )
    return forced.astype(value.dtype)


def _along(values: Array, rank: int, axis: int) -> Array:
    """One number, or one for each index of `axis`, so that it broadcasts."""
    if values.size == 1:
        return values.reshape(())
    shape = [1] * rank
    shape[axis] = -1
    return values.reshape(shape)


def _centred(codes: Array, scale: Array, zero: Array | None = None, *, axis: int) -> tuple[Array, Array]:
    """Codes less their zero points, float64, and the scales that they are multiplied by."""
    whole = _double(codes)
    if zero is not None:
        whole = whole - _double(_along(zero, codes.ndim, axis))
    return whole, _double(_along(scale, codes.ndim, axis))


def _convolution(
    x: tuple[Array, Array], w: tuple[Array, Array], bias: list[Any], attributes: dict[str, Any]
) -> Array:
    """Σ q·w exactly, then both scales; of a scale a channel of the input, in float64 with it."""
    codes, scale = x
    if scale.ndim:
        codes, scale = codes * scale, np.ones(())
    largest = float(np.abs(w[0]).sum(axis=(1, 2, 3)).max(initial=0) * np.abs(codes).max(initial=0))
    kind = np.float32 if x[1].ndim == 0 and largest < _EXACT_IN_FLOAT32 else np.float64
    sums = _double(convolve(codes.astype(kind), w[0].astype(kind), attributes))
    result = sums * (scale * w[1].reshape(-1, 1, 1))
    return result if not bias or bias[0] is None else result + _double(bias[0]).reshape(-1, 1, 1)


def _quantize(given: list[Any], attributes: dict[str, Any]) -> Array:
    """clip(round_half_even(x / scale) + zero) in the type of the codes."""
    x, scale = _double(given[0]), _double(_along(given[1], given[0].ndim, attributes.get("axis", 1)))
    zero = given[2] if len(given) > 2 else None
    kind = (
        helper.tensor_dtype_to_np_dtype(attributes.get("output_dtype") or TensorProto.UINT8)
        if zero is None
        else zero.dtype
    )
    name = TensorProto.DataType.Name(helper.np_dtype_to_tensor_dtype(np.dtype(kind)))
    bits = int("".join(filter(str.isdigit, name)))
    low, high = (0, 2**bits - 1) if name.startswith("U") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    point = 0 if zero is None else _double(_along(zero, x.ndim, attributes.get("axis", 1)).astype(np.int64))
    return np.clip(np.rint(x / scale) + point, low, high).astype(np.int64).astype(kind)


def _batch_norm(given: list[Any], attributes: dict[str, Any]) -> Array:
    x = given[0]
    gamma, beta, mean, variance = (_along(each, x.ndim, 1) for each in given[1:5])
    epsilon = float(np.float32(attributes.get("epsilon", 1e-5)))
    return (x - mean) * (gamma / np.sqrt(variance + epsilon)) + beta


def _clip(given: list[Any], attributes: dict[str, Any]) -> Array:
    x, low, high = (*given, None, None)[:3]
    x = x if low is None else np.maximum(x, low.astype(x.dtype))
    return x if high is None else np.minimum(x, high.astype(x.dtype))


def _resize(given: list[Any], attributes: dict[str, Any]) -> Array | None:
    """Nearest by whole factors; None for any other, which ONNX's reference does."""
    text = {key: each.decode() for key, each in attributes.items() if isinstance(each, bytes)}
    how = text.get("coordinate_transformation_mode", "half_pixel"), text.get("nearest_mode", "")
    plain = text.get("mode", "nearest") == "nearest" and "axes" not in attributes
    if not plain or how not in (("asymmetric", "floor"), ("half_pixel", "")) or given[0].ndim != 4:
        return None
    x = given[0]
    scales, sizes = (*given, None, None)[2:4]
    ratios = scales if sizes is None or not sizes.size else sizes / np.array(x.shape)
    if ratios is None or ratios.size != 4 or (ratios != np.rint(ratios)).any() or (ratios[:2] != 1).any():
        return None
    rows, columns = (int(ratio) for ratio in ratios[2:])
    return x.repeat(rows, axis=2).repeat(columns, axis=3)


def _pooled(given: list[Any], attributes: dict[str, Any]) -> Array | None:
    return max_pool(given[0], attributes) if given[0].ndim == 4 else None


def _plain_conv(given: list[Any], attributes: dict[str, Any]) -> Array:
    result = convolve(given[0], given[1], attributes)
    return result if len(given) < 3 or given[2] is None else result + given[2].reshape(-1, 1, 1)


_OURS: dict[str, Callable[[list[Any], dict[str, Any]], Array | None]] = {
    "Add": lambda given, _: given[0] + given[1],
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Conv": _plain_conv,
    "MaxPool": _pooled,
    "Mul": lambda given, _: given[0] * given[1],
    "QuantizeLinear": _quantize,
    "Relu": lambda given, _: np.maximum(given[0], 0),
    "Resize": _resize,
}
"""What is often there, or where ONNX's reference is slow; a result of None leaves a node to that."""
