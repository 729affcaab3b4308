"""Files whose activations are quantized anew for each image (dynamic quantization)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.passes.canonical.draft import Draft, is_standard
from aqd_deploy.passes.canonical.unusable_quantizers import counted
from aqd_deploy.passes.operators import label_of

_PRODUCTS = {"ConvInteger": "Conv", "MatMulInteger": "MatMul"}


def undo_dynamic_quantization(draft: Draft) -> None:
    """Products of codes become those of the reals they stand for; weights are those that their codes mean.

        x ── DynamicQuantizeLinear ─q, z── ConvInteger ── Cast ── Mul ── Add ── y        x ── Conv ── y
                                  └─s── Mul ──────────────────────┘      bias

    1. ConvInteger and MatMulInteger with constant weights, of one scale or one an output channel; a bias
       that is added becomes the convolution's own. Names are those that onnxruntime made its own of.
    2. MatMulInteger of two tensors.
    3. UnsupportedModelError where such an operator stands otherwise.
    """
    producers = draft.producers()
    count = dynamic_products(draft.nodes)

    def rule(node: NodeProto) -> list[NodeProto] | None:
        if is_standard(node, "Add"):
            return _with_bias(draft, node, producers)
        product = _Product.at(node, producers)
        return None if product is None else _undone(draft, node, product, producers)

    if not count:
        return
    draft.rewrite(rule)
    draft.remove_dead()
    draft.changed.append(f"{count} products of codes that each image has its own scales for: of reals again")
    left = [node for node in draft.nodes if is_standard(node, "DynamicQuantizeLinear", *_PRODUCTS)]
    if left:
        raise UnsupportedModelError(
            f"dynamic quantization that cannot be undone: {counted(left)}, the first {label_of(left[0])}",
            valid="DynamicQuantizeLinear, ConvInteger or MatMulInteger, Cast, Mul by both scales",
            next_command="aqd-deploy quantize FLOAT.onnx --calibration DIR -o OUT, of the float network",
        )


def dynamic_products(nodes: Iterable[NodeProto]) -> int:
    """How many of the nodes are products of codes, before they are undone."""
    return sum(is_standard(node, *_PRODUCTS) for node in nodes)


@dataclass(frozen=True)
class _Product:
    """A product of codes, and the scales of its operands as its result is multiplied by them."""

    node: NodeProto
    scales: tuple[str, str]

    @classmethod
    def at(cls, node: NodeProto, producers: Mapping[str, NodeProto]) -> _Product | None:
        """Of the Mul that makes reals of it, in any order of its operands."""
        if not is_standard(node, "Mul"):
            return None
        for codes, factor in (node.input, node.input[::-1]):
            cast, scales = producers.get(codes), producers.get(factor)
            if cast is None or scales is None or not is_standard(cast, "Cast"):
                continue
            made = producers.get(cast.input[0])
            if made is not None and is_standard(made, *_PRODUCTS) and is_standard(scales, "Mul"):
                return cls(made, (scales.input[0], scales.input[1]))
        return None


def _undone(
    draft: Draft, node: NodeProto, product: _Product, producers: Mapping[str, NodeProto]
) -> list[NodeProto] | None:
    """Cases 1 and 2 without their bias; None where the scales are not those of the operands."""
    left = _quantized(product.node, 0, producers)
    if left is None or left.output[1] not in product.scales:
        return None
    scale = product.scales[1 - product.scales.index(left.output[1])]
    right = _quantized(product.node, 1, producers)
    if right is not None:
        operand = right.input[0] if scale == right.output[1] else None
    else:
        operand = _weights(draft, product.node, scale)
    if operand is None:
        return None
    made = draft.node(
        _PRODUCTS[product.node.op_type], [left.input[0], operand], node.output[0], like=product.node
    )
    made.name = made.name.removesuffix("_quant")
    made.attribute.extend(product.node.attribute)
    return [made]


def _quantized(product: NodeProto, operand: int, producers: Mapping[str, NodeProto]) -> NodeProto | None:
    """The DynamicQuantizeLinear that makes an operand, with the zero point that the product takes off."""
    made = producers.get(product.input[operand])
    zero = product.input[2 + operand] if len(product.input) > 2 + operand else ""
    is_it = made is not None and is_standard(made, "DynamicQuantizeLinear") and made.output[2] == zero
    return made if is_it else None


def _weights(draft: Draft, product: NodeProto, scale: str) -> str | None:
    """The constant that codes, zero point and scale mean; None where one of them is no constant."""
    zero = product.input[3] if len(product.input) > 3 else ""
    arrays = [draft.array(name) for name in (product.input[1], scale, zero) if name]
    if any(array is None for array in arrays):
        return None
    codes, steps, *zeros = (np.asarray(array, np.float64) for array in arrays)
    # Output channels: the first axis of a convolution's weights, the last of a matrix.
    behind = (1,) * (codes.ndim - 2) if product.op_type == "ConvInteger" else ()
    along = codes.shape[0 if behind else -1]
    if steps.size > 1 and steps.shape[-1 - len(behind) :] != (along, *behind):
        return None
    shape = [-1] + [1] * (codes.ndim - 1) if behind else [-1]
    reals = (codes - sum(each.reshape(shape) for each in zeros)) * steps.reshape(shape)
    return draft.constant(product.input[1].removesuffix("_quantized"), reals.astype(np.float32))


def _with_bias(draft: Draft, node: NodeProto, producers: Mapping[str, NodeProto]) -> list[NodeProto] | None:
    """The bias of case 1: a constant that is added, one number an output channel."""
    for value, added in (node.input, node.input[::-1]):
        product = _Product.at(producers[value], producers) if value in producers else None
        bias = draft.array(added)
        if product is None or bias is None or product.node.op_type != "ConvInteger":
            continue
        weights = draft.array(product.node.input[1])
        if weights is None or bias.shape[1:] != (len(weights), *[1] * (weights.ndim - 2)):
            continue
        made = _undone(draft, node, product, producers)
        if made is not None:
            made[0].input.append(draft.constant(f"{added}_bias", bias.reshape(-1)))
        return made
    return None
