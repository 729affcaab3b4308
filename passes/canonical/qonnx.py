"""QONNX: quantizers of any bit width, whose scales and zero points are reals."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.passes.canonical.draft import Draft, attribute
from aqd_deploy.passes.operators import label_of

DOMAINS = ("qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general")


def take_qonnx_apart(draft: Draft) -> None:
    """Quantizers as QuantizeLinear, Clip and DequantizeLinear.

        x ── Quant(scale, 0, 4 bits) ── y    x ── QuantizeLinear ── Clip(-8, 7) ── DequantizeLinear ── y

    1. Quant of up to 8 bits; Clip where the bits or `narrow` leave a part of the type out. Scales and zero
       points of one a channel get its axis.
    2. Quant of more bits, of a constant (a bias): its codes are computed here, in float32, and are int32.
    3. BipolarQuant of a constant: the codes 1 and -1.
    4. Trunc behind a sum (an average pool): ⌊n / 2^k⌋ is the nearest integer to (n − (2^k − 1) / 2) / 2^k.
    5. UnsupportedModelError for activations of more bits, other rounding, zero points between integers, and
       BipolarQuant of activations, which has no code for 0.
    """
    makers = {
        "Quant": (_quant, 4),
        "IntQuant": (_quant, 4),
        "BipolarQuant": (_bipolar, 2),
        "Trunc": (_trunc, 5),
    }

    def rule(node: NodeProto) -> list[NodeProto] | None:
        if node.domain not in DOMAINS or node.op_type not in makers:
            return None
        make, operands = makers[node.op_type]
        if len(node.input) < operands:
            raise UnsupportedModelError(
                f"node {label_of(node)}: {node.op_type} with {len(node.input)} inputs", valid=str(operands)
            )
        made = make(draft, node)
        draft.changed.append(f"{label_of(node)}: {node.op_type} of {node.domain} taken apart")
        return made

    draft.rewrite(rule)


def _constant(draft: Draft, node: NodeProto, index: int, what: str) -> np.ndarray:
    array = draft.array(node.input[index]) if index < len(node.input) else None
    if array is None or not array.size or not np.isfinite(array.astype(np.float64)).all():
        raise UnsupportedModelError(
            f"node {label_of(node)}: the {what} of {node.op_type} isn't a finite constant",
            valid="scales, zero points and bits that are constants",
        )
    return array


def _whole(draft: Draft, node: NodeProto, index: int, what: str) -> np.ndarray:
    array = _constant(draft, node, index, what).astype(np.float64)
    if (array != np.rint(array)).any() or np.abs(array).max() > 1 << 31:
        raise UnsupportedModelError(
            f"node {label_of(node)}: the {what} of {node.op_type} isn't a whole number",
            received=float(array.ravel()[0]),
            valid="whole numbers",
        )
    return array.astype(np.int64)


def _bits(draft: Draft, node: NodeProto, index: int, most: int = 8) -> int:
    bits = int(_whole(draft, node, index, "bit width").ravel()[0])
    if not 1 <= bits <= most:
        raise UnsupportedModelError(
            f"node {label_of(node)}: {node.op_type} of {bits} bits", valid=f"1 to {most} bits",
            next_command="export with activations and weights of at most 8 bits",
        )  # fmt: skip
    return bits


def _axis(draft: Draft, node: NodeProto, array: np.ndarray) -> tuple[np.ndarray, dict[str, int]]:
    """A scale or zero point as a number, or as a vector with its axis."""
    if array.size == 1:
        return array.reshape(()), {}
    axes = [axis for axis, size in enumerate(array.shape) if size > 1]
    rank = len(draft.shapes.get(node.input[0], array.shape))
    if len(axes) != 1:
        raise UnsupportedModelError(
            f"node {label_of(node)}: scales along {len(axes)} axes", valid="one scale, or one a channel"
        )
    return array.reshape(-1), {"axis": axes[0] + rank - array.ndim}


def _quant(draft: Draft, node: NodeProto) -> list[NodeProto]:
    """Case 1."""
    if attribute(node, "rounding_mode", "ROUND").upper() not in ("ROUND", "HALF_EVEN"):
        raise UnsupportedModelError(
            f"node {label_of(node)}: {node.op_type} rounds by {attribute(node, 'rounding_mode')}",
            valid="ROUND (half to even)",
        )
    values = draft.array(node.input[0])
    bits = _bits(draft, node, 3, 8 if values is None else 32)
    signed, narrow = bool(attribute(node, "signed", 1)), bool(attribute(node, "narrow", 0))
    scale, axis = _axis(draft, node, _constant(draft, node, 1, "scale").astype(np.float32))
    zero = _whole(draft, node, 2, "zero point")
    low = -(1 << bits - 1) + narrow if signed else 0
    high = (1 << bits - 1) - 1 if signed else (1 << bits) - 1 - narrow
    if values is not None and bits > 8:
        return _wide_constant(draft, node, values, (scale, axis), zero, (low, high))
    return _quantizer(draft, node, (scale, axis), zero, (low, high), np.int8 if signed else np.uint8)


def _quantizer(
    draft: Draft,
    node: NodeProto,
    scaling: tuple[np.ndarray, dict[str, int]],
    zero: np.ndarray,
    limits: tuple[int, int],
    kind: type[np.integer],
) -> list[NodeProto]:
    scale, axis = scaling
    info = np.iinfo(kind)
    if zero.size not in (1, scale.size) or zero.min() < info.min or zero.max() > info.max:
        raise UnsupportedModelError(
            f"node {label_of(node)}: zero points that are no codes", received=zero.ravel()[:4].tolist(),
            valid=f"{info.min} to {info.max}, as many as scales or one",
        )  # fmt: skip
    output = node.output[0]
    points = np.broadcast_to(zero.reshape(() if zero.size == 1 else -1), scale.shape)
    constants = [
        draft.constant(f"{output}_scale", scale),
        draft.constant(f"{output}_zero_point", points.astype(kind)),
    ]
    made = [draft.node("QuantizeLinear", [node.input[0], *constants], like=node, **axis)]
    if limits != (info.min, info.max):
        bounds = [draft.constant(f"{output}_bound", np.array(each, dtype=kind)) for each in limits]
        made.append(draft.node("Clip", [made[-1].output[0], *bounds], like=node))
    made.append(draft.node("DequantizeLinear", [made[-1].output[0], *constants], output, like=node, **axis))
    return made


def _wide_constant(
    draft: Draft,
    node: NodeProto,
    values: np.ndarray,
    scaling: tuple[np.ndarray, dict[str, int]],
    zero: np.ndarray,
    limits: tuple[int, int],
) -> list[NodeProto]:
    """Case 2."""
    scale, axis = scaling
    if zero.any() or limits[1] >= 1 << 31 or not np.isfinite(values).all():
        raise UnsupportedModelError(
            f"node {label_of(node)}: a constant of more than 8 bits that int32 has not",
            valid="finite numbers, signed, zero point 0",
        )
    shape = [1] * values.ndim
    if axis:
        shape[axis["axis"]] = -1
    with np.errstate(all="ignore"):
        steps = np.rint(values.astype(np.float32) / scale.reshape(shape)).astype(np.float64)
    codes = draft.constant(f"{node.output[0]}_codes", np.clip(steps, *limits).astype(np.int32))
    name = draft.constant(f"{node.output[0]}_scale", scale)
    return [draft.node("DequantizeLinear", [codes, name], node.output[0], like=node, **axis)]


def _bipolar(draft: Draft, node: NodeProto) -> list[NodeProto]:
    """Case 3."""
    values = draft.array(node.input[0])
    if values is None:
        raise UnsupportedModelError(
            f"node {label_of(node)}: BipolarQuant of activations", valid="BipolarQuant of weights",
            next_command="quantize these activations to 2 bits or more",
        )  # fmt: skip
    scale, axis = _axis(draft, node, _constant(draft, node, 1, "scale").astype(np.float32))
    codes = draft.constant(f"{node.output[0]}_codes", np.where(values >= 0, 1, -1).astype(np.int8))
    name = draft.constant(f"{node.output[0]}_scale", scale)
    return [draft.node("DequantizeLinear", [codes, name], node.output[0], like=node, **axis)]


def _trunc(draft: Draft, node: NodeProto) -> list[NodeProto]:
    """Case 4."""
    scale = _constant(draft, node, 1, "scale").astype(np.float32)
    zero = _whole(draft, node, 2, "zero point")
    wide = int(_whole(draft, node, 3, "bit width").ravel()[0])
    bits = _bits(draft, node, 4)
    mode = attribute(node, "rounding_mode", "FLOOR").upper()
    if mode not in ("FLOOR", "ROUND") or scale.size > 1 or zero.any() or not 0 <= wide - bits <= 16:
        raise UnsupportedModelError(
            f"node {label_of(node)}: this Trunc can't be lowered",
            received=f"{scale.size} scales, rounding {mode}, from {wide} to {bits} bits",
            valid="one scale, zero point 0, FLOOR or ROUND, up to 16 bits less",
        )
    divisor = 1 << wide - bits
    offset = draft.scalar(f"{node.output[0]}_offset", float(-scale.item() * (divisor - 1) / 2))
    made = []
    source = node.input[0]
    if mode == "FLOOR" and divisor > 1:
        made = [draft.node("Add", [source, offset], like=node)]
        source = made[0].output[0]
    signed = attribute(node, "signed", 1)
    coarse = draft.constant(f"{node.output[0]}_coarse", (scale * divisor).reshape(()))
    fine = draft.constant(f"{node.output[0]}_scale", scale.reshape(()))
    point = draft.constant(f"{node.output[0]}_zero_point", np.array(0, np.int8 if signed else np.uint8))
    made.append(draft.node("QuantizeLinear", [source, coarse, point], like=node))
    made.append(draft.node("DequantizeLinear", [made[-1].output[0], fine, point], node.output[0], like=node))
    return made
