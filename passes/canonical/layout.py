"""Vectors and moved elements: everything lies in feature maps [1, C, H, W]."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, helper

from aqd_deploy.passes.canonical.constant_chain import ConstantChain, Layout, chain_of, layout_of
from aqd_deploy.passes.canonical.draft import Draft, attribute, copy_of, is_standard
from aqd_deploy.passes.operators import OPERATORS, label_of

_ELEMENTWISE = {
    *("Abs", "Add", "Celu", "Clip", "DequantizeLinear", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid"),
    *("HardSwish", "Identity", "LeakyRelu", "Log", "Max", "Min", "Mish", "Mul", "Neg", "PRelu", "Pow"),
    *("QuantizeLinear", "Reciprocal", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Sqrt", "Sub"),
    *("Swish", "Tanh", "ThresholdedRelu"),
}
_MOVES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose")
_LARGEST = 1 << 24
"""Elements of a tensor whose places are followed one by one."""
_LARGEST_ORDER = 1 << 22
"""Elements of a map whose order is stored: four indices each while a file is rewritten."""


@dataclass(frozen=True)
class Placed:
    """A tensor whose elements lie in a feature map: element i of it is the map's element `places`[i].

    `base` is the map, `shape` its shape [1, C, H, W]; `places` has the tensor's own shape, int64.
    """

    base: str
    shape: tuple[int, int, int, int]
    places: np.ndarray

    @property
    def in_order(self) -> bool:
        """Whether it is the whole map, element by element."""
        count = math.prod(self.shape)
        return self.places.size == count and bool((self.places.ravel() == np.arange(count)).all())

    @property
    def is_whole(self) -> bool:
        """Whether each element of the map is there once."""
        count = math.prod(self.shape)
        return self.places.size == count and bool((np.sort(self.places, axis=None) == np.arange(count)).all())


def use_feature_maps(draft: Draft) -> None:
    """Where elements go is computed here; nodes that only move them disappear.

        x [1, C, 7, 7] ── Flatten ── Gemm(w [K, N]) ── y [1, N]    x ── Conv(w [N, C, 7, 7]) ── y [1, N, 1, 1]
        x ── Reshape ── Transpose ── Reshape ── y                  x ── Gather(channels) or GatherND ── y

    1. Reshape, Flatten, Squeeze, Unsqueeze, Transpose, and Slice, Gather and DepthToSpace of what they made:
       only noted.
    2. Gemm and MatMul with a constant: a convolution with the window of the whole map.
    3. Element-wise nodes and quantizers of such a tensor: on the map. Constants are laid out like it.
    4. Concat of such tensors: of their maps, along the channels; of parts of one map only noted.
    5. A map again: the map itself, a Gather of channels, or DepthToSpace.
    6. An output keeps its name and is a map; the manifest has its shape (`shapes`).
    7. Any other order of elements, where an operator of maps reads it: one GatherND of the map.
    8. Anything else reads the tensor as the file made it, and check_model says that it can't be lowered.
    """
    rewriting = _Rewriting(draft)
    rewriting.run()


class _Rewriting:
    """One run. Each tensor is still made as in the file; what nothing reads any more goes at the end."""

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.shapes = draft.shapes
        self.producers = draft.producers()
        self.placed: dict[str, Placed] = {}
        self.alias: dict[str, str] = {}
        self.arranged: dict[str, str] = {}
        self.nodes: list[NodeProto] = []

    def run(self) -> None:
        """Every node, in order."""
        for node in self.draft.nodes:
            for index, name in enumerate(node.input):
                node.input[index] = self.alias.get(name, name)
            self._node(node)
            if not any(name in self.placed or name in self.alias for name in node.output):
                self._read_maps(node)
            self.nodes.append(node)
        if not self.placed and not self.alias:
            return
        # What has another form has one maker.
        replaced = {*self.alias, *self._placed_outputs()}
        self.nodes = [node for node in self.nodes if not replaced.intersection(node.output)]
        self._finish_outputs()
        self.draft.nodes = self.nodes
        self.draft.substitute(self.alias)
        self.draft.remove_dead()
        self._take_names_back()
        del self.draft.model.graph.value_info[:]

    def _place(self, name: str) -> Placed | None:
        """Where a tensor lies; a feature map lies in itself."""
        if name in self.placed:
            return self.placed[name]
        shape = self.shapes.get(name, ())
        if len(shape) != 4 or shape[0] != 1 or math.prod(shape) > _LARGEST or name in self.draft.initializers:
            return None
        return Placed(name, shape, np.arange(math.prod(shape)).reshape(shape))  # type: ignore[arg-type]

    def _node(self, node: NodeProto) -> None:
        moves = is_standard(node, *_MOVES) or (
            is_standard(node, "Slice", "Gather", "DepthToSpace") and node.input[0] in self.placed
        )
        if moves:
            self._move(node)
        elif is_standard(node, "Gemm", "MatMul"):
            self._multiply(node)
        elif any(name in self.placed for name in node.input):
            if is_standard(node, *_ELEMENTWISE):
                self._elementwise(node)
            elif is_standard(node, "Concat"):
                self._concat(node)

    def _read_maps(self, node: NodeProto) -> None:
        """Case 7, of a node that stays."""
        if not is_standard(node, *OPERATORS):
            return
        for index, name in enumerate(node.input):
            if name in self.placed and name not in self.arranged:
                made = _rearranged(self.draft, self.placed[name], name)
                if made is None:
                    continue
                self.nodes.append(made)
                self.arranged[name] = made.output[0]
            node.input[index] = self.arranged.get(name, name)

    def _note(self, name: str, placed: Placed) -> None:
        """Case 5, or a note of where the tensor lies."""
        made = _as_map(self.draft, placed, name)
        if made is None:
            self.placed[name] = placed
        elif isinstance(made, str):
            self.alias[name] = made
        else:
            self.nodes.append(made)
            self.alias[name] = made.output[0]

    def _move(self, node: NodeProto) -> None:
        """Case 1."""
        source, layout = self._place(node.input[0]), _layout(self.draft, node)
        if source is None or layout is None:
            return
        try:
            places = layout(source.places)
        except (ArithmeticError, IndexError, ValueError):
            return
        if places.shape != self.shapes.get(node.output[0], places.shape) or not places.size:
            return
        self._note(node.output[0], Placed(source.base, source.shape, places))
        self.draft.changed.append(f"{label_of(node)}: {node.op_type} moves nothing that is computed")

    def _multiply(self, node: NodeProto) -> None:
        """Case 2."""
        source, weights = self._place(node.input[0]), chain_of(self.draft, self.producers, node.input[1])
        gemm = node.op_type == "Gemm"
        plain = not gemm or (
            attribute(node, "alpha", 1.0) == attribute(node, "beta", 1.0) == 1.0
            and not attribute(node, "transA", 0)
        )
        if source is None or weights is None or not plain or not source.is_whole:
            return
        axis = weights.axis(self.draft)
        transposed = gemm and attribute(node, "transB", 0)
        matrix = weights.array.T if transposed else weights.array
        out = 0 if transposed else 1
        vector = matrix.ndim == 2 and source.places.size == source.places.shape[-1] == matrix.shape[0]
        if not vector or axis not in (None, out):
            return
        laid = np.empty_like(matrix.T, order="C")
        laid[:, source.places.ravel()] = matrix.T
        made, name = weights.mapped(
            self.draft, laid.reshape(-1, *source.shape[1:]), None if axis is None else 0
        )
        inputs = [source.base, name]
        if gemm and len(node.input) > 2 and node.input[2]:
            bias = self._bias(node.input[2], matrix.shape[1])
            if bias is None:
                return
            made += bias[0]
            inputs.append(bias[1])
        conv = self.draft.node("Conv", inputs, like=node, kernel_shape=list(source.shape[2:]))
        self.nodes += [*made, conv]
        shape = (1, matrix.shape[1], 1, 1)
        logical = (*source.places.shape[:-1], matrix.shape[1])
        self._note(node.output[0], Placed(conv.output[0], shape, np.arange(shape[1]).reshape(logical)))
        self.draft.changed.append(f"{label_of(node)}: {node.op_type} as Conv")

    def _bias(self, name: str, count: int) -> tuple[list[NodeProto], str] | None:
        """A constant of `count` numbers in one dimension."""
        chain = chain_of(self.draft, self.producers, name)
        if chain is None or chain.array.size not in (1, count):
            return None
        axis = None if chain.axis(self.draft) is None else 0
        return chain.mapped(self.draft, np.broadcast_to(chain.array.reshape(-1), count), axis)

    def _elementwise(self, node: NodeProto) -> None:
        """Case 3."""
        lead = next(self.placed[name] for name in node.input if name in self.placed)
        operands = []
        quantizer = is_standard(node, "QuantizeLinear", "DequantizeLinear")
        if quantizer and not self._is_along_channels(node, lead):
            return
        for index, name in enumerate(node.input):
            operand = name if not name or (quantizer and index) else self._operand(name, lead)
            if operand is None:
                return
            operands.append(operand)
        copy = copy_of(node)
        copy.input[:] = operands
        copy.output[0] = self.draft.names.fresh(node.output[0])
        if quantizer:
            others = [each for each in node.attribute if each.name != "axis"]
            del copy.attribute[:]
            copy.attribute.extend(others)
        self.nodes.append(copy)
        self._note(node.output[0], Placed(copy.output[0], lead.shape, lead.places))

    def _is_along_channels(self, node: NodeProto, lead: Placed) -> bool:
        """Whether a quantizer has one scale, or one for each channel of the map."""
        counts = [
            array.size for name in node.input[1:] if name and (array := self.draft.array(name)) is not None
        ]
        axis = attribute(node, "axis", 1) % max(lead.places.ndim, 1)
        along = lead.in_order and lead.shape[2:] == (1, 1) and lead.places.shape[axis] == lead.shape[1]
        return max(counts, default=1) == 1 or along

    def _operand(self, name: str, lead: Placed) -> str | None:
        """The operand `name` laid out like `lead`, None where that can't be."""
        if name in self.placed:
            placed = self.placed[name]
            fits = placed.shape == lead.shape and np.array_equal(placed.places, lead.places)
            return placed.base if fits else None
        chain = chain_of(self.draft, self.producers, name)
        if chain is None or (chain.array.size > 1 and not self._fits(chain, lead)):
            return None
        if chain.array.size == 1:
            made, result = chain.mapped(self.draft, chain.array.reshape(()), None)
        else:
            flat = np.empty(math.prod(lead.shape), chain.array.dtype)
            flat[lead.places.ravel()] = np.broadcast_to(chain.array, lead.places.shape).ravel()
            laid = flat.reshape(lead.shape)
            channels = laid[:, :, :1, :1]
            made, result = chain.mapped(self.draft, channels if (laid == channels).all() else laid, None)
        self.nodes += made
        return result

    def _fits(self, chain: ConstantChain, lead: Placed) -> bool:
        try:
            same = np.broadcast_shapes(chain.array.shape, lead.places.shape) == lead.places.shape
        except ValueError:
            return False
        return same and lead.is_whole and chain.axis(self.draft) is None

    def _concat(self, node: NodeProto) -> None:
        """Case 4."""
        parts = [self._place(name) for name in node.input]
        whole = [part for part in parts if part is not None]
        if len(whole) < len(parts) or len({part.shape[2:] for part in whole}) > 1:
            return
        one = whole[0] if len({part.base for part in whole}) == 1 else None
        sizes = [0 if one else math.prod(part.shape) for part in whole]
        starts = np.cumsum([0, *sizes]).tolist()
        places = [part.places + start for part, start in zip(whole, starts, strict=False)]
        try:
            joined = np.concatenate(places, axis=attribute(node, "axis"))
        except (ValueError, IndexError):
            return
        if one is not None:
            self._note(node.output[0], Placed(one.base, one.shape, joined))
            return
        concat = self.draft.node("Concat", [part.base for part in whole], like=node, axis=1)
        self.nodes.append(concat)
        shape = (1, sum(part.shape[1] for part in whole), *whole[0].shape[2:])
        self._note(node.output[0], Placed(concat.output[0], shape, joined))

    def _placed_outputs(self) -> dict[str, Placed]:
        """Outputs that are whole maps of another shape."""
        placed = {name: self.placed[name] for name in self.draft.outputs if name in self.placed}
        return {name: each for name, each in placed.items() if each.in_order}

    def _finish_outputs(self) -> None:
        """Case 6."""
        outputs = self._placed_outputs()
        for value in self.draft.model.graph.output:
            placed = outputs.get(value.name)
            if placed is None:
                continue
            self.nodes.append(helper.make_node("Identity", [placed.base], [value.name], name=value.name))
            self.draft.manifest.setdefault("shapes", {})[value.name] = list(placed.places.shape)
            kind = value.type.tensor_type.elem_type
            value.type.CopyFrom(helper.make_tensor_type_proto(kind, placed.shape))

    def _take_names_back(self) -> None:
        """What has the elements of a tensor that is no longer made, in its order, has its name."""
        draft, left = self.draft, set(self.draft.producers())
        inputs = set(draft.inputs)
        for node in [node for node in draft.nodes if node.op_type == "Identity"]:
            source, output = node.input[0], node.output[0]
            if source in left and source not in draft.outputs and source not in inputs:
                draft.nodes = [each for each in draft.nodes if each is not node]
                draft.rename({source: output})
                left -= {source}
        same = {p.base: name for name, p in self.placed.items() if p.in_order}
        same |= {made: name for name, made in self.arranged.items()}
        names = {base: name for base, name in same.items() if base in left and name not in left}
        draft.rename({base: name for base, name in names.items() if base not in draft.outputs})


def _as_map(draft: Draft, placed: Placed, name: str) -> str | NodeProto | None:
    """Case 5: the name of the map, the node that makes it of the base, or None where it is none."""
    places, (_, channels, height, width) = placed.places, placed.shape
    if places.ndim != 4 or places.shape[0] != 1:
        return None
    if places.shape == placed.shape and placed.in_order:
        return placed.base
    grid = np.arange(channels * height * width).reshape(placed.shape)
    if places.shape[2:] == (height, width):
        order = places[0, :, 0, 0] // (height * width)
        if np.array_equal(places, grid[:, order]):
            indices = draft.constant(f"{name}_channels", order)
            return helper.make_node(
                "Gather", [placed.base, indices], [draft.names.fresh(name)], name=name, axis=1
            )
    block = places.shape[2] // height
    if block > 1 and places.shape == (1, channels // block**2, height * block, width * block):
        for mode, arrange in _DEPTH_TO_SPACE.items():
            if channels % block**2 == 0 and np.array_equal(places, arrange(grid, block)):
                return helper.make_node(
                    "DepthToSpace",
                    [placed.base],
                    [draft.names.fresh(name)],
                    name=name,
                    blocksize=block,
                    mode=mode,
                )
    return None


def _rearranged(draft: Draft, placed: Placed, name: str) -> NodeProto | None:
    """Case 7: the node that makes the map of the base, None where it is none, or too large."""
    places = placed.places
    if places.ndim != 4 or places.shape[0] != 1 or places.size > _LARGEST_ORDER:
        return None
    indices = np.stack(np.unravel_index(places, placed.shape), axis=-1)
    order = draft.constant(f"{name}_order", indices)
    return helper.make_node("GatherND", [placed.base, order], [draft.names.fresh(name)], name=name)


def _crd(grid: np.ndarray, block: int) -> np.ndarray:
    _, c, h, w = grid.shape
    parts = grid.reshape(1, c // block**2, block, block, h, w).transpose(0, 1, 4, 2, 5, 3)
    return parts.reshape(1, c // block**2, h * block, w * block)


def _dcr(grid: np.ndarray, block: int) -> np.ndarray:
    _, c, h, w = grid.shape
    parts = grid.reshape(1, block, block, c // block**2, h, w).transpose(0, 3, 4, 1, 5, 2)
    return parts.reshape(1, c // block**2, h * block, w * block)


_DEPTH_TO_SPACE: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {"CRD": _crd, "DCR": _dcr}


def _layout(draft: Draft, node: NodeProto) -> Layout | None:
    """`layout_of`, also of a DepthToSpace."""
    if not is_standard(node, "DepthToSpace"):
        return layout_of(draft, node)
    arrange = _DEPTH_TO_SPACE.get(attribute(node, "mode", "DCR"))
    block = attribute(node, "blocksize", 1)
    return None if arrange is None else lambda places: arrange(places, block)
