"""The convolutions and matrix products of a file, whoever wrote it, with what quantizes their operands; and
which of two files of one network belong together.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher

import numpy as np
from onnx import NodeProto, TensorProto

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.integer.types import element_name
from aqd_deploy.passes.canonical.draft import Draft, attribute, is_standard
from aqd_deploy.quantization.network import PRODUCTS, layer_of

_MOVES = ("MaxPool", "Resize", "Concat", "Slice", "Gather", "DepthToSpace", "Pad", "Identity", "Reshape",
          "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Split")  # fmt: skip
"""What only selects or places elements: a quantizer in front of it may as well stand behind."""


@dataclass(frozen=True)
class Steps:
    """What one side of a layer is quantized with: codes in `low`…`high`, `scale` and `zero` one number or one
    a channel, ready to be used with the tensor's shape. `codes` is the tensor of codes, "" where several are
    joined.
    """

    scale: np.ndarray
    zero: np.ndarray
    low: int
    high: int
    codes: str

    @property
    def bits(self) -> int:
        """Of the range of codes."""
        return (self.high - self.low).bit_length()

    def quantized(self, values: np.ndarray) -> np.ndarray:
        """Codes of reals, float32: ONNX's QuantizeLinear and the Clip behind it."""
        return np.clip(np.rint(values / self.scale) + self.zero, self.low, self.high)

    def dequantized(self, codes: np.ndarray) -> np.ndarray:
        """Reals of codes, float32."""
        return ((codes - self.zero) * self.scale).astype(np.float32)


@dataclass(frozen=True)
class Layer:
    """One product with constant weights. `names` are those that another file may have as well; `product` is
    the node's own output, `output` that behind its batch norm or separate bias. `activation` and `weight` say
    what quantizes its operands, None for what stays float; `weight_axis` is that of the output channels.
    """

    names: frozenset[str]
    label: str
    op_type: str
    shape: tuple[int, ...]
    input: str
    weight_tensor: str
    weight_axis: int
    product: str
    output: str
    biased: bool
    activation: Steps | None
    weight: Steps | None


@dataclass(frozen=True)
class Match:
    """A layer of the quantized file and the one of the float file that it was; `by_name`, or by order and
    shape.
    """

    quantized: Layer
    float: Layer
    by_name: bool

    @property
    def outputs(self) -> tuple[str, str]:
        """Where the two mean the same: behind batch norm and bias, or in front of a bias that one has not."""
        if self.quantized.biased == self.float.biased:
            return self.quantized.output, self.float.output
        return self.quantized.product, self.float.product


def layers_of(draft: Draft) -> list[Layer]:
    """The layers in order. UnsupportedModelError where there is none."""
    constant, producers, readers = draft.constants(), draft.producers(), draft.readers()
    found = []
    for node in draft.nodes:
        known = layer_of(node, constant.__contains__, lambda name: len(draft.shapes[name]))
        if known is None:
            continue
        output, biased = _end(draft, node, readers)
        weight, steps = _weight(draft, producers, known.weight)
        found.append(
            Layer(
                names=frozenset(map(_plain, {node.name, known.output, weight} - {""})),
                label=known.name,
                op_type=known.op_type,
                shape=draft.shapes[weight],
                input=known.input,
                weight_tensor=known.weight,
                weight_axis=known.axis,
                product=known.output,
                output=output,
                biased=biased,
                activation=_input_steps(draft, producers, known.input),
                weight=steps,
            )
        )
    if not found:
        raise UnsupportedModelError(
            "the file has no convolution or matrix product with constant weights, so it has no layers",
            received=f"{len(draft.nodes)} nodes",
            valid=", ".join(PRODUCTS),
        )
    return found


def matched(quantized: Sequence[Layer], floats: Sequence[Layer]) -> list[Match]:
    """Which layers are the same: by a name of the node, its output or its weights, if the weights have one
    shape; those that are left by the order of their shapes.
    """
    pairs: dict[int, tuple[int, bool]] = {}
    taken: set[int] = set()
    for i, layer in enumerate(quantized):
        candidates = [
            j
            for j, other in enumerate(floats)
            if j not in taken and other.shape == layer.shape and other.names & layer.names
        ]
        # Layers of a shared head have one weight: the node's or output's name tells them apart.
        best = max(candidates, key=lambda j: len(floats[j].names & layer.names), default=None)
        if best is not None:
            pairs[i] = best, True
            taken.add(best)
    left = [i for i in range(len(quantized)) if i not in pairs]
    right = [j for j in range(len(floats)) if j not in taken]
    while blocks := _common(left, right, quantized, floats):
        pairs |= {i: (j, False) for i, j in blocks}
        left = [i for i in left if i not in pairs]
        right = [j for j in right if j not in {j for _, j in blocks}]
    return [Match(quantized[i], floats[j], named) for i, (j, named) in sorted(pairs.items())]


def _plain(name: str) -> str:
    """A name without what quantizers put behind it."""
    return re.sub("_quant(ized)?$", "", name)


def _common(
    left: Sequence[int], right: Sequence[int], quantized: Sequence[Layer], floats: Sequence[Layer]
) -> list[tuple[int, int]]:
    """The longest runs of equal shapes, in both orders; none where no shape is in both."""
    shapes = [quantized[i].shape for i in left], [floats[j].shape for j in right]
    blocks = SequenceMatcher(a=shapes[0], b=shapes[1], autojunk=False).get_matching_blocks()
    return [(left[each.a + k], right[each.b + k]) for each in blocks for k in range(each.size)]


def _end(draft: Draft, node: NodeProto, readers: dict[str, list[NodeProto]]) -> tuple[str, bool]:
    """The tensor behind the batch norm or the separate bias, and whether the layer has a bias at all."""
    biased = len(node.input) > 2 and bool(node.input[2])
    name = node.output[0]
    while name not in draft.outputs and len(readers.get(name, [])) == 1:
        reader = readers[name][0]
        adds = is_standard(reader, "Add") and draft.initializers.keys() & set(reader.input)
        if not is_standard(reader, "BatchNormalization") and (biased or not adds):
            break
        name, biased = reader.output[0], True
    return name, biased


def _weight(draft: Draft, producers: dict[str, NodeProto], name: str) -> tuple[str, Steps | None]:
    """The initializer of a weight, and what it is quantized with."""
    steps = None
    node = producers.get(name)
    while node is not None:
        if steps is None and is_standard(node, "DequantizeLinear"):
            steps = _narrowed(draft, _steps(draft, producers, node, len(draft.shapes[name]), 0))
        name = node.input[0]
        node = producers.get(name)
    return name, steps


def _narrowed(draft: Draft, steps: Steps | None) -> Steps | None:
    """Signed codes of a constant without a Clip: of as many bits as they need."""
    codes = None if steps is None else draft.array(steps.codes)
    if steps is None or codes is None or steps.low >= 0:
        return steps
    whole = codes.astype(np.int64)
    bits = max(int(whole.max(initial=0)).bit_length(), int(~whole.min(initial=0)).bit_length()) + 1
    return replace(steps, low=-(1 << bits - 1), high=(1 << bits - 1) - 1)


def _input_steps(draft: Draft, producers: dict[str, NodeProto], name: str) -> Steps | None:
    """The quantizer that stands in front of `name`, past what only moves elements; None where a float comes
    that way.
    """
    node = producers.get(name)
    if node is None:
        return None
    if is_standard(node, "DequantizeLinear"):
        return _steps(draft, producers, node, len(draft.shapes.get(name, (0,) * 4)), 1)
    if is_standard(node, "Concat"):
        return _joined(draft, producers, node)
    return _input_steps(draft, producers, node.input[0]) if is_standard(node, *_MOVES) else None


def _joined(draft: Draft, producers: dict[str, NodeProto], node: NodeProto) -> Steps | None:
    parts = [_input_steps(draft, producers, name) for name in node.input]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts) or len({(part.low, part.high) for part in known}) > 1:
        return None
    if all(np.array_equal(p.scale, known[0].scale) and np.array_equal(p.zero, known[0].zero) for p in known):
        return known[0]
    channels = [draft.shapes[name][1] for name in node.input]
    rank = len(draft.shapes[node.output[0]])

    def along(values: Sequence[np.ndarray]) -> np.ndarray:
        wide = [np.resize(value.ravel(), count) for value, count in zip(values, channels, strict=True)]
        return np.concatenate(wide).reshape([1, -1] + [1] * (rank - 2))

    return Steps(
        along([part.scale for part in known]), along([part.zero for part in known]), known[0].low,
        known[0].high, "",
    )  # fmt: skip


def _steps(
    draft: Draft, producers: dict[str, NodeProto], node: NodeProto, rank: int, default_axis: int
) -> Steps | None:
    scale = draft.array(node.input[1])
    zero = draft.array(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if scale is None or (zero is None and len(node.input) > 2 and node.input[2]):
        return None
    axis = attribute(node, "axis", 1)

    def along(values: np.ndarray) -> np.ndarray:
        if values.size == 1:
            return values.astype(np.float32).reshape(())
        shape = [1] * rank
        shape[axis] = values.size
        return values.astype(np.float32).reshape(shape)

    low, high = _range(draft, producers, node.input[0])
    return Steps(
        along(scale), along(np.zeros((), np.float32) if zero is None else zero), low, high, node.input[0]
    )


def _range(draft: Draft, producers: dict[str, NodeProto], name: str) -> tuple[int, int]:
    """The codes that a tensor can hold: by the Clip behind its quantizer, or by its type."""
    low, high = _type_range(draft.types[name])
    while (node := producers.get(name)) is not None:
        if is_standard(node, "Clip"):
            bounds = [draft.array(each) if each else None for each in [*node.input[1:], "", ""][:2]]
            low = low if bounds[0] is None else max(low, int(bounds[0].item()))
            high = high if bounds[1] is None else min(high, int(bounds[1].item()))
            break
        if not is_standard(node, *_MOVES):
            break
        name = node.input[0]
    return low, high


_RANGES: dict[int, tuple[int, int]] = {
    TensorProto.UINT4: (0, 15), TensorProto.INT4: (-8, 7), TensorProto.UINT8: (0, 255),
    TensorProto.INT8: (-128, 127), TensorProto.UINT16: (0, 65535), TensorProto.INT16: (-32768, 32767),
    TensorProto.INT32: (-(1 << 31), (1 << 31) - 1),
}  # fmt: skip
"""Of the types that codes and integer biases have."""


def _type_range(kind: int) -> tuple[int, int]:
    if kind not in _RANGES:
        raise UnsupportedModelError(
            "a quantizer whose codes are no integers", received=element_name(kind),
            valid=", ".join(map(element_name, _RANGES)),
        )  # fmt: skip
    return _RANGES[kind]
