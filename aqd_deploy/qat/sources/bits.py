"""The quantizers in the checkpoints of AQD's authors: how many bits each layer has.

`X.quant_weight` and `X.quant_activation` have `clip_val` (ν), `level_num` and `iteration`. The network
computes with `level_num`, whatever its configuration says of bits. A quantizer lets pass what it is given
until its first iterations, those up to `stable`, are over; one that is switched off never counts them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from aqd_deploy.errors import CheckpointError
from aqd_deploy.qat.quantizers import MAX_BITS, MIN_BITS
from aqd_deploy.qat.sources.weights import Weights

STEM = "backbone.stem.conv"
KINDS = {"weight_quantizer": "quant_weight", "activation_quantizer": "quant_activation"}
"""The checkpoint's quantizers by the names of ours."""

Bits = tuple[int | None, int | None]


def is_quantized(weights: Weights) -> bool:
    """Whether any layer has a quantizer."""
    return any(".quant_weight." in name for name in weights.tensors)


def quantization(
    weights: Weights, convolutions: Mapping[str, str], last: tuple[str, ...], stable: float
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The fields of the configuration that say the bits of `convolutions` (names in the checkpoint by ours),
    and the layers that are not quantized, by their names in the checkpoint. `last` are the outputs' paths.

    Raises CheckpointError for numbers of levels that are no bits, and where no inner layer is quantized.
    """
    bits = {ours: _bits(weights, theirs, stable) for ours, theirs in convolutions.items()}
    floats = tuple(convolutions[path] for path, each in bits.items() if each[0] is None)
    outer = (STEM, *last)
    inner = Counter(w for path, (w, _) in bits.items() if path not in outer and w is not None)
    if not inner:
        raise CheckpointError(
            f"no inner layer of {weights.owner} is quantized", received="quantizers in first and last layers",
            valid="quantizers in the convolutions between them",
        )  # fmt: skip
    rule = inner.most_common(1)[0][0]
    ends = Counter(bits[path][0] for path in outer if bits[path][0] is not None)
    end = ends.most_common(1)[0][0] if ends else None

    def ruled(path: str) -> Bits:
        if path not in outer:
            return rule, rule
        return end, None if path == STEM else end

    exceptions = tuple((path, *each) for path, each in bits.items() if each != ruled(path))
    fields: dict[str, Any] = {
        "bits": rule,
        "layer_bits": exceptions,
        "mode": "aqd*" if end is None else "aqd",
    }
    return fields | ({} if end is None else {"first_last_bits": end}), floats


def _bits(weights: Weights, theirs: str, stable: float) -> Bits:
    weight, activation = (_of(weights, f"{theirs}.{kind}", stable) for kind in KINDS.values())
    return weight, activation


def _of(weights: Weights, quantizer: str, stable: float) -> int | None:
    """The bits of one quantizer, None where there is none or it lets everything pass."""
    if f"{quantizer}.clip_val" not in weights or weights.number(f"{quantizer}.iteration") <= stable:
        return None
    levels = weights.number(f"{quantizer}.level_num")
    for bits in range(MIN_BITS, MAX_BITS + 1):
        if levels == 2**bits:
            return bits
    raise CheckpointError(
        f"the quantizer {quantizer} of {weights.owner} has a number of levels that no number of bits has",
        received=f"level_num {levels:g}", valid=f"a power of two from {2**MIN_BITS} to {2**MAX_BITS}",
    )  # fmt: skip
