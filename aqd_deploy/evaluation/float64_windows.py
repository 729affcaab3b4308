"""Windows of maps in numpy: convolutions and max-pools of [1, C, H, W] as ONNX defines them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def convolve(x: np.ndarray, w: np.ndarray, attributes: Mapping[str, Any]) -> np.ndarray:
    """Conv of x [1, C, H, W] by w [O, C/group, kh, kw] in their type, without a bias: [1, O, oh, ow]."""
    view = windows_of(x, w.shape[2:], 0, attributes)
    group = int(attributes.get("group", 1))
    inside, out = w.shape[1], w.shape[0] // group
    _, _, rows, columns = view.shape[:4]
    parts = []
    for index in range(group):
        taps = view[0, index * inside : (index + 1) * inside].transpose(0, 3, 4, 1, 2)
        matrix = taps.reshape(inside * w.shape[2] * w.shape[3], rows * columns)
        parts.append(w[index * out : (index + 1) * out].reshape(out, -1) @ matrix)
    return np.concatenate(parts).reshape(1, w.shape[0], rows, columns)


def max_pool(x: np.ndarray, attributes: Mapping[str, Any]) -> np.ndarray:
    """MaxPool; padding never wins."""
    fill = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    return windows_of(x, attributes["kernel_shape"], fill, attributes).max(axis=(-2, -1))


def windows_of(
    x: np.ndarray, kernel: tuple[int, ...], fill: float, attributes: Mapping[str, Any]
) -> np.ndarray:
    """The windows [N, C, oh, ow, kh, kw] of a map, a view where nothing is padded. `attributes` are strides,
    pads, dilations, ceil_mode and auto_pad of the node.
    """
    strides, dilations = (attributes.get(name, [1, 1]) for name in ("strides", "dilations"))
    spans = [(size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True)]
    padding, counts = [(0, 0), (0, 0)], []
    for axis in (0, 1):
        before, after, count = _axis(x.shape[2 + axis], spans[axis], strides[axis], axis, attributes)
        padding.append((before, after))
        counts.append(count)
    padded = np.pad(x, padding, constant_values=fill)
    view = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=(2, 3))
    view = view[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]
    return view[:, :, : counts[0], : counts[1]]


def _axis(
    size: int, span: int, stride: int, axis: int, attributes: Mapping[str, Any]
) -> tuple[int, int, int]:
    """Padding before and behind an axis, and how many windows it has."""
    pads = attributes.get("pads", [0, 0, 0, 0])
    before, after = pads[axis], pads[axis + 2]
    automatic = attributes.get("auto_pad", b"NOTSET").decode()
    if automatic in ("SAME_UPPER", "SAME_LOWER"):
        missing = max((math.ceil(size / stride) - 1) * stride + span - size, 0)
        before, after = sorted((missing // 2, missing - missing // 2), reverse=automatic == "SAME_LOWER")
    elif automatic == "VALID":
        before = after = 0
    rest = size + before + after - span
    count = (math.ceil(rest / stride) if attributes.get("ceil_mode") else rest // stride) + 1
    if attributes.get("ceil_mode") and (count - 1) * stride >= size + before:
        # A window never starts in the padding behind.
        count -= 1
    return before, after + max((count - 1) * stride - rest, 0), count
