"""Small models of the dialect's words for other networks than AQD's, for both types of codes."""

from __future__ import annotations

import numpy as np
import onnx
from small_models import INT8, INT32, UINT8, ModelWriter

from aqd_deploy.errors import AqdError
from aqd_deploy.integer.reader import read_graph

SIZES = ((1, 1, 1), (3, 5, 7), (4, 6, 4), (8, 9, 3), (33, 2, 2))


def word_model(build, dtype: int, sizes: tuple[int, int, int], seed: int = 0) -> onnx.ModelProto:
    """A model whose output is the tensor `build(writer, input, channels)`, of an input of `sizes`."""
    w = ModelWriter(seed)
    y = build(w, w.image("x", *sizes, dtype=dtype), sizes[0])
    w.output(y, dtype=INT32)
    model = w.model()
    declare(model)
    return model


def declare(model: onnx.ModelProto) -> None:
    """Declares the outputs with the types that they have."""
    for output in model.graph.output:
        for kind in (INT32, UINT8, INT8):
            output.type.tensor_type.elem_type = kind
            try:
                read_graph(model)
            except AqdError as error:
                if f"output {output.name} is declared with another type" not in str(error):
                    break
            else:
                break


def stream(w, x, channels):
    """Accumulators [1, C, H, W] of x."""
    return w.conv(x, w.weight(channels, channels, 1, 8))


CASES = {
    "lookup to uint8": lambda w, x, c: w.lookup(x),
    "lookup to int8": lambda w, x, c: w.lookup(x, INT8),
    "steps": lambda w, x, c: w.steps(stream(w, x, c)),
    "steps to int8, one threshold": lambda w, x, c: w.steps(stream(w, x, c), INT8, 1),
    "steps, as many as there are": lambda w, x, c: w.steps(stream(w, x, c), UINT8, 1023),
    "multiply": lambda w, x, c: w.multiply(x, w.lookup(x, INT8), 12, -34),
    "multiply by itself": lambda w, x, c: w.multiply(x, x, 5, 5),
    "max and min": lambda w, x, c: w.clip(stream(w, x, c), c),
    "top everywhere the same": lambda w, x, c: w._standard(
        "Min", [stream(w, x, c), w.constant(np.array(-77, np.int32))]
    ),
    "channels turned": lambda w, x, c: w.gather(x, list(range(c))[::-1]),
    "channels selected of a stream": lambda w, x, c: w.gather(stream(w, x, c), [c - 1, 0, c - 1]),
    "elements in any order": lambda w, x, c: w.rearrange(x, _order(w)),
    "every other of all": lambda w, x, c: w.slice(x, [0, 0, 0], [99, 99, 99], [3, 1, 2], [2, 2, 2]),
    "the last row": lambda w, x, c: w.slice(stream(w, x, c), [-1], [np.iinfo(np.int64).max], [2], [1]),
    "half pixel": lambda w, x, c: w.resize_linear(x, (2, 2), 1),
    "half pixel by odd factors": lambda w, x, c: w.resize_linear(x, (3, 1), 1),
    "asymmetric": lambda w, x, c: w.resize_linear(x, (4, 3), 0),
    "whole map": lambda w, x, c: w.sum_pool(x, _sizes(w)),
    "group 1 of 9 bits": lambda w, x, c: w.conv_offset(x, 5, c, 1, 1, _zero(w)),
    "padded depthwise of 9 bits": lambda w, x, c: w.conv_offset(
        x, c, 1, 3, c, _zero(w), pads=[1, 2, 1, 0], strides=[2, 1]
    ),
    "grouped of 9 bits": lambda w, x, c: w.conv_offset(
        x, 2 * c, 1, 3, c, _zero(w), pads=[2, 2, 2, 2], dilations=[2, 2]
    ),
}

STREAM_CASES = {
    "elements of a stream in any order": lambda w, x, c: w.rearrange(stream(w, x, c), _order(w)),
    "pieces": lambda w, x, c: w.pieces(stream(w, x, c)),
    "two pieces": lambda w, x, c: w.pieces(stream(w, x, c), 1),
    "pieces, as many as there are": lambda w, x, c: w.pieces(stream(w, x, c), 1023),
    "multiply streams": lambda w, x, c: w.stream_multiply(stream(w, x, c), w.pieces(stream(w, x, c)), c),
    "multiply a stream by one pixel": lambda w, x, c: w.stream_multiply(
        stream(w, x, c), w.stream_sums(stream(w, x, c), _sizes(w)), c
    ),
    "half pixel of a stream": lambda w, x, c: w.resize_linear(stream(w, x, c), (2, 3), 1),
    "sums of a stream": lambda w, x, c: w.stream_sums(stream(w, x, c), (3, 2), (1, 2), (1, 1, 2, 0)),
    "whole map of a stream": lambda w, x, c: w.stream_sums(stream(w, x, c), _sizes(w)),
}
"""Of accumulators alone, whatever the codes in front are."""


def _sizes(w):
    return tuple(d.dim_value for d in w.inputs[0].type.tensor_type.shape.dim[2:])


def _order(w):
    """Indices [C', H', W'] of any elements of the input, for a map of other sides."""
    _, channels, rows, columns = (d.dim_value for d in w.inputs[0].type.tensor_type.shape.dim)
    return w.generator.integers(0, channels * rows * columns, (rows, columns + 2, channels + 3))


def _zero(w):
    """A zero point of the input's type."""
    return 131 if w.inputs[0].type.tensor_type.elem_type == UINT8 else -11
