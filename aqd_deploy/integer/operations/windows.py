"""Windows of convolutions and pools: how many fit, and their values in numpy."""

from __future__ import annotations

import numpy as np

from aqd_deploy.errors import ShapeError, UnsupportedModelError
from aqd_deploy.integer.graph import Node
from aqd_deploy.integer.types import MAX_ELEMENTS, TensorType


def window_counts(
    node: Node, x: TensorType, spans: tuple[int, int], strides: tuple[int, int], pads: tuple[int, ...]
) -> tuple[int, int]:
    """Rows and columns of windows; ShapeError where there is none, or the padded input is too large."""
    height, width = x.height + pads[0] + pads[2], x.width + pads[1] + pads[3]
    rows, columns = (height - spans[0]) // strides[0] + 1, (width - spans[1]) // strides[1] + 1
    if height * width * x.channels > MAX_ELEMENTS:
        raise ShapeError(
            f"the input of {node.label} is too large with its padding",
            received=[1, x.channels, height, width],
            valid=f"{MAX_ELEMENTS} elements",
        )
    if rows < 1 or columns < 1:
        raise ShapeError(
            f"{node.label} does not fit its input",
            received=f"input {list(x.nchw)}, windows of {spans[0]} x {spans[1]}, pads {list(pads)}",
        )
    return rows, columns


def check_auto_pad(node: Node) -> None:
    """ "`auto_pad` NOTSET, or VALID without pads" """
    if node.attributes["auto_pad"] == "VALID" and any(node.attributes["pads"]):
        raise UnsupportedModelError(f"{node.label} has pads beside auto_pad VALID", valid="auto_pad NOTSET")


def windows(
    x: np.ndarray, spans: tuple[int, int], strides: tuple[int, int], pads: tuple[int, ...], fill: int
) -> np.ndarray:
    """[C, rows, columns, *spans] of x [1, C, H, W]; what is padded is `fill`."""
    top, left, bottom, right = pads
    padded = np.pad(x[0], ((0, 0), (top, bottom), (left, right)), constant_values=fill)
    found = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=(1, 2))
    return found[:, :: strides[0], :: strides[1]]
