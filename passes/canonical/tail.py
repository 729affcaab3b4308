"""What stays float behind the last quantizers: a model of its own."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from aqd_deploy.errors import ShapeError
from aqd_deploy.passes.canonical.draft import STANDARD, Draft, attribute, is_standard
from aqd_deploy.passes.operators import OPERATORS

_KEPT = ("Add", "BatchNormalization", "Clip", "Concat", "DequantizeLinear", "MaxPool", "Mul", "Relu")
"""Of integers, these are integers again, without a quantizer behind them."""
_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Integers where both operands are."""
_LAYOUT = ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose")
_IN_FRONT = (*_LAYOUT, "Concat", "Gather", "Slice")
"""What picks and joins elements for decoding."""
_MOVES = (*_IN_FRONT, "MaxPool", "Split", "Resize", "DepthToSpace", "Pad", "Clip", "Relu")
"""What these make of dequantized codes can be quantized again without a loss."""


def cut_tail(draft: Draft) -> None:
    """Decoding, Softmax and the like go to `tail`, which onnxruntime runs behind the integer program.

        q ── DequantizeLinear ── Conv ── y ── Sigmoid ── z        … ── Conv ── y (output)
                                                                  tail: y ── Sigmoid ── z

    1. A node that no quantizer of activations stands behind, and that isn't among the operators that keep
       integers, belongs to the tail; so does every node behind it. So does an operator that no pass knows
       (Softmax) with its quantizers, where no convolution or matrix product stands behind it.
    2. Convolutions and matrix products are kept where both operands are dequantized, Mul where one is a
       constant, Add and Mul where that is one number or one a channel, Resize where it copies, and what moves
       dequantized codes.
    3. Layout in front of the tail belongs to it, and so do Slice, Gather and Concat there. So does layout in
       front of an output that is no feature map, where a Transpose puts its elements in another order.
       Behind a Reshape or the like that both parts read, both have it: the tail reads the map itself.
    4. A tensor that the tail reads becomes an output of the integer part, under its name.
    5. An output that needs no tail stays an output. Where all do without, there is no tail.
    """
    cut = _Cut(draft)
    if cut.wanted:
        cut.apply()


class _Cut:
    """Where a model is cut: `tail` are the nodes that go, `wanted` the outputs that they make."""

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.constant = draft.constants()
        self.codes = _dequantized(draft, self.constant)
        behind = self._made_without("QuantizeLinear")
        behind_products = self._made_without(*_PRODUCTS)
        self.moved: set[str] = set()
        for node in draft.nodes:
            outputs = set(filter(None, node.output))
            unknown = outputs <= behind_products and not _is_known(node)
            real = outputs <= behind and not self._is_kept(node)
            if unknown or real or self.moved.intersection(node.input):
                self.moved |= outputs
        self._take_reordered_outputs()
        self._take_layout_along(behind)
        self.rearranged = self._rearranged()
        self.wanted = [name for name in draft.outputs if name in self.moved]

    def _made_without(self, *op_types: str) -> set[str]:
        """Tensors, not constants, that no such node of activations is made of."""
        in_front: set[str] = set()
        for node in reversed(self.draft.nodes):
            reads = is_standard(node, *op_types) and node.input[0] not in self.constant
            if reads or in_front.intersection(node.output):
                in_front.update(name for name in (*node.input, *node.output) if name)
        made = {name for node in self.draft.nodes for name in node.output if name}
        return made - in_front - self.constant

    def _is_kept(self, node: NodeProto) -> bool:
        """Cases 1 and 2."""
        if is_standard(node, *_PRODUCTS):
            return all(name in self.codes for name in node.input[:2])
        if is_standard(node, *_MOVES) and node.output[0] in self.codes:
            return True
        if is_standard(node, "Add", "Mul") and not self._is_same_everywhere(node):
            return False
        if is_standard(node, "Mul"):
            return any(name in self.constant for name in node.input)
        if is_standard(node, "Resize"):
            return attribute(node, "mode", "nearest") == "nearest"
        return is_standard(node, *_KEPT, *_LAYOUT)

    def _is_same_everywhere(self, node: NodeProto) -> bool:
        """Whether no constant operand tells the pixels of a map apart, as a grid of cells does."""
        tensors = [self.draft.initializers[name] for name in node.input if name in self.draft.initializers]
        spatial = [tensor.dims[axis] for tensor in tensors for axis in (-2, -1) if len(tensor.dims) >= 3]
        return all(size == 1 for size in spatial)

    def _take_reordered_outputs(self) -> None:
        """Case 3, of outputs that nothing of the body reads."""
        made, read = self.draft.producers(), {name for node in self.draft.nodes for name in node.input}
        for output in self.draft.outputs:
            chain: list[NodeProto] = []
            name = output
            while name in made and is_standard(made[name], *_LAYOUT):
                chain.append(made[name])
                name = made[name].input[0]
            rank = len(self.draft.shapes.get(output, ()))
            if rank != 4 and output not in read and any(map(self._reorders, chain)):
                self.moved.update(out for node in chain[:1] for out in node.output)

    def _reorders(self, node: NodeProto) -> bool:
        """Whether a Transpose moves axes of more than one element past each other."""
        shape = self.draft.shapes.get(node.input[0])
        if not is_standard(node, "Transpose") or shape is None:
            return False
        order = attribute(node, "perm", list(range(len(shape)))[::-1])
        long = [axis for axis in order if shape[axis] > 1]
        return long != sorted(long)

    def _take_layout_along(self, behind: set[str]) -> None:
        """Case 3."""
        kept_reads = set(self.draft.outputs)
        for node in reversed(self.draft.nodes):
            name = node.output[0]
            if name in self.moved:
                continue
            if is_standard(node, *_IN_FRONT) and name in behind and name not in kept_reads:
                self.moved.add(name)
            else:
                kept_reads.update(node.input)

    def _rearranged(self) -> set[str]:
        """Tensors of the body that are a map's elements in another layout, or a part of these."""
        found: set[str] = set()
        for node in self.draft.nodes:
            part = is_standard(node, *_IN_FRONT) and node.input[0] in found
            moves = is_standard(node, *_LAYOUT) or part
            if (
                moves
                and self.constant.issuperset(node.input[1:])
                and node.output[0] not in self.draft.outputs
            ):
                found.update(node.output)
        return found

    def apply(self) -> None:
        """Cases 4 and 5."""
        draft, graph = self.draft, self.draft.model.graph
        own = self._needed()
        made = {name for node in own for name in node.output}
        read = {name for node in own for name in node.input if name}
        boundary = [name for node in draft.nodes for name in node.output if name in read - made]
        values = [self._value(name) for name in boundary]
        outputs = [value for value in graph.output if value.name in self.wanted]
        constants = [tensor for name, tensor in draft.initializers.items() if name in read]
        draft.tail = _model(draft.model, own, values, outputs, constants)
        kept = [value for value in graph.output if value.name not in self.wanted]
        new = {value.name for value in values} - {value.name for value in kept}
        kept += [value for value in values if value.name in new]
        del graph.output[:]
        graph.output.extend(kept)
        draft.remove_dead()
        kinds = ", ".join(sorted({node.op_type for node in own}))
        draft.changed.append(f"{len(own)} nodes behind {', '.join(boundary)} are the tail: {kinds}")

    def _needed(self) -> list[NodeProto]:
        """The tail's nodes in order, with those of constants that it reads."""
        read = set(self.wanted)
        own: list[NodeProto] = []
        for node in reversed(self.draft.nodes):
            outputs = set(filter(None, node.output))
            if outputs & read and outputs <= self.moved | self.constant | self.rearranged:
                read.update(node.input)
                own.append(node)
        return own[::-1]

    def _value(self, name: str) -> ValueInfoProto:
        shape = self.draft.shapes.get(name)
        if shape is None:
            raise ShapeError(
                f"the shape of {name}, where the float tail begins, isn't static",
                next_command="aqd-deploy lower FILE --shape 1x3x320x320 -o OUT",
            )
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _is_known(node: NodeProto) -> bool:
    return node.domain in STANDARD and (node.op_type in OPERATORS or node.op_type in (*_PRODUCTS, *_LAYOUT))


def _dequantized(draft: Draft, constant: set[str]) -> set[str]:
    """Real tensors that are codes with a scale: from DequantizeLinear, through nodes that move elements."""
    codes: set[str] = set()
    for node in draft.nodes:
        if is_standard(node, "DequantizeLinear"):
            codes.update(node.output)
        elif is_standard(node, *_MOVES) and all(n in codes for n in node.input if n and n not in constant):
            codes.update(filter(None, node.output))
    return codes


def _model(
    model: ModelProto,
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    constants: Sequence[TensorProto],
) -> ModelProto:
    graph = helper.make_graph(nodes, f"{model.graph.name or 'model'}_tail", inputs, outputs, constants)
    domains = {node.domain for node in nodes}
    imports = [entry for entry in model.opset_import if entry.domain in domains.union(STANDARD)]
    return helper.make_model(graph, opset_imports=imports, ir_version=model.ir_version)
