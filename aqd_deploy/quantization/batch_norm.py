"""Batch norms in the weights of the convolutions in front of them."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from aqd_deploy.passes.canonical.draft import Draft, attribute, copy_of, is_standard
from aqd_deploy.quantization.quantizer import along

_AXES = {"Conv": 0, "ConvTranspose": 1}


def fold_batch_norms(draft: Draft) -> None:
    """w·γ/σ and (b − μ)·γ/σ + β, computed in float64.

        x ── Conv(w, b) ── BatchNormalization ── y        x ── Conv(w', b') ── y

    A weight that several convolutions share stays as it is, and so do its batch norms: a head over pyramid
    levels would otherwise have its weights once a level. So does that of a grouped transposed convolution.
    """
    producers, readers = draft.producers(), draft.readers()
    folded: dict[str, NodeProto] = {}
    gone: set[str] = set()
    for norm in draft.nodes:
        if not is_standard(norm, "BatchNormalization"):
            continue
        front = producers.get(norm.input[0])
        if front is None or not _foldable(draft, front, norm, readers):
            continue
        weight, bias = _folded(draft, front, norm)
        new = copy_of(front)
        del new.input[:]
        new.input.extend([front.input[0], weight, bias])
        new.output[0] = norm.output[0]
        folded[front.output[0]] = new
        gone.add(norm.output[0])
    draft.nodes = [
        folded.get(node.output[0], node)
        for node in draft.nodes
        if not (is_standard(node, "BatchNormalization") and node.output[0] in gone)
    ]


def _foldable(draft: Draft, front: NodeProto, norm: NodeProto, readers: dict[str, list[NodeProto]]) -> bool:
    constants = [*front.input[1:], *norm.input[1:5]]
    return (
        is_standard(front, *_AXES)
        and not (front.op_type == "ConvTranspose" and attribute(front, "group", 1) > 1)
        and len(readers[front.output[0]]) == 1
        and front.output[0] not in draft.outputs
        and all(draft.array(name) is not None for name in constants if name)
        and len(readers[front.input[1]]) == 1
    )


def _folded(draft: Draft, front: NodeProto, norm: NodeProto) -> tuple[str, str]:
    """Names of the new weight and bias. The weight keeps its name, as the array is no other layer's."""
    gamma, beta, mean, variance = (_real(draft, name) for name in norm.input[1:5])
    factor = gamma / np.sqrt(variance + attribute(norm, "epsilon", 1e-5))
    weight = _real(draft, front.input[1])
    bias = _real(draft, front.input[2]) if len(front.input) > 2 and front.input[2] else 0.0
    scaled = weight * along(factor, weight.ndim, _AXES[front.op_type])
    draft.set_constant(front.input[1], scaled.astype(np.float32))
    moved = (beta + (bias - mean) * factor).astype(np.float32)
    return front.input[1], draft.constant(f"{norm.output[0]}.bias", moved)


def _real(draft: Draft, name: str) -> np.ndarray:
    array = draft.array(name)
    assert array is not None, "asked in _foldable"
    return array.astype(np.float64)
