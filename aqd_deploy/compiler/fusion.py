"""Graph → plan: every convolution takes with it what follows its accumulators.

Rules, in the order they are tried; each keeps the integers as they are because the nodes it merges are
applied to the same value in the same order:

1. A group starts at a convolution, or at an element-wise node whose input no group produces any more (after
a pool, a
   concat, or a value with several readers).
2. While the group's value has exactly one reader and is no graph output, that reader joins the group as a
step:
   bias, multiply-shift, ReLU, or a skip-add whose other operand is a stored tensor. The other operand
   cannot depend on the group: its only way out is the value just joined.
3. At the end of the chain every Requantize and Threshold that reads the value becomes a store; anything
else that
   reads it, or a graph output, adds one store of the int32 stream.
4. `PadImage` before a convolution without pads of its own becomes the convolution's padding values. A
Resize read by
   a skip-add becomes its upsampling. Either node is still executed where somebody else reads it.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace

import numpy as np

from aqd_deploy.compiler.plan import (
    Concat,
    Conv,
    MaxPool,
    Operand,
    Operation,
    Pad,
    Plan,
    Pointwise,
    Resize,
)
from aqd_deploy.compiler.ranges import activation_ranges, weight_range
from aqd_deploy.compiler.schedule import in_order, live
from aqd_deploy.errors import RangeError
from aqd_deploy.integer.graph import Graph, Node, constant
from aqd_deploy.integer.operations import pool_geometry, resize_factors
from aqd_deploy.kernels.contract.spec import (
    AddBias,
    ConvSpec,
    Epilogue,
    MultiplyShift,
    Relu,
    SkipAdd,
    Step,
    Store,
    StoreRequantize,
    StoreStream,
    StoreThreshold,
)
from aqd_deploy.kernels.winograd.forms import exact_forms, may_winograd, true_weights

_CONVOLUTIONS = ("ConvInteger", "ConvOdd")
_STORES = ("Requantize", "Threshold")
_INT32 = np.iinfo(np.int32)


def fuse(graph: Graph) -> Plan:
    """The plan of `graph`; its outputs are those of the graph, tensors with several names once. Raises
    RangeError for a zero point whose bias leaves int32.
    """
    return _Fusion(graph).plan()


class _Fusion:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.outputs = graph.stored_outputs
        self.claimed: set[int] = set()
        self.operations: list[Operation] = []
        self.weights: dict[str, np.ndarray] = {}
        self.types = dict(graph.types)
        self.ranges = activation_ranges(graph)
        self.forms: dict[Hashable, tuple[str, ...]] = {}

    def plan(self) -> Plan:
        for node in self.graph.nodes:
            if id(node) in self.claimed:
                continue
            if node.op in _CONVOLUTIONS:
                self.operations.append(self._conv(node))
            elif node.op in ("Resize", "PadImage", "Concat", "MaxPool") or node.op.startswith("MaxPool_"):
                self.operations.append(self._movement(node))
            else:
                self.operations.append(self._pointwise(node))
        operations = in_order(live(self.operations, self.outputs))
        used = {operation.weight for operation in operations if isinstance(operation, Conv)}
        weights = {name: value for name, value in self.weights.items() if name in used}
        return Plan(self.graph.inputs, self.outputs, operations, self.types, weights)

    def _conv(self, node: Node) -> Conv:
        self.claimed.add(id(node))
        source, pads, pad_values = self._padding(node)
        x = self.types[source]
        weight = constant(self.graph, node, 1)
        steps: list[Step] = []
        operands: list[Operand] = []
        if node.op == "ConvInteger" and len(node.inputs) > 2:
            zero = int(constant(self.graph, node, 2))
            if zero:
                steps.append(AddBias())
                operands.append(_zero_point_bias(node, weight, zero))
                pad_values = pad_values or (zero,) * x.channels
        spec = ConvSpec(
            height=x.height,
            width=x.width,
            in_channels=x.channels,
            out_channels=weight.shape[0],
            kernel=(weight.shape[2], weight.shape[3]),
            strides=node.attributes["strides"],
            pads=pads,
            dilations=node.attributes["dilations"],
            group=node.attributes["group"],
            odd=node.op == "ConvOdd",
            pad_values=pad_values if any(pads) and any(pad_values or ()) else None,
            input_signed=x.dtype == "int8",
            input_range=self.ranges.get(source),
            weight_range=weight_range(weight),
        )
        if may_winograd(spec):
            spec = replace(spec, winograd=self._winograd_forms(node.inputs[1], weight, spec))
        self.weights[node.inputs[1]] = weight
        epilogue, outputs = self._grow(node.output, steps, operands)
        return Conv(node.name, source, node.inputs[1], spec, epilogue, tuple(operands), outputs)

    def _winograd_forms(self, name: str, weight: np.ndarray, spec: ConvSpec) -> tuple[str, ...]:
        key = (name, spec.odd, spec.input_range)
        if key not in self.forms:
            self.forms[key] = exact_forms(true_weights(weight, spec.odd), spec.input_range)
        return self.forms[key]

    def _padding(self, node: Node) -> tuple[str, tuple[int, int, int, int], tuple[int, ...] | None]:
        """Input, pads and padding values (those of a PadImage) of a convolution: rule 4."""
        pads = node.attributes["pads"]
        producer = self.graph.producers.get(node.inputs[0])
        if producer is None or producer.op != "PadImage" or any(pads):
            return node.inputs[0], pads, None
        pad = self._pad(producer)
        return pad.input, pad.pads, pad.values

    def _pointwise(self, node: Node) -> Pointwise:
        """Rule 1, second case. All stores that read one tensor share one pass over it."""
        source = self._data_input(node)
        steps: list[Step] = []
        operands: list[Operand] = []
        if node.op in _STORES:
            epilogue, outputs = self._stores(source, steps, operands, stream=False)
            return Pointwise(node.name, source, epilogue, tuple(operands), outputs)
        self.claimed.add(id(node))
        if node.op != "Cast":
            steps.append(self._step(node, source, operands))
        epilogue, outputs = self._grow(node.output, steps, operands)
        return Pointwise(node.name, source, epilogue, tuple(operands), outputs)

    def _data_input(self, node: Node) -> str:
        """The computed input that a pass runs over; the other one of a skip-add keeps the Resize (rule 4)."""
        computed = [name for name in node.inputs if name in self.types]
        producers = self.graph.producers
        full = [name for name in computed if name not in producers or producers[name].op != "Resize"]
        return (full or computed)[0]

    def _grow(
        self, value: str, steps: list[Step], operands: list[Operand]
    ) -> tuple[Epilogue, tuple[str, ...]]:
        """Rules 2 and 3 from `value` on; appends to `steps` and `operands`."""
        while value not in self.outputs:
            readers = self.graph.consumers.get(value, [])
            if len(readers) != 1 or id(readers[0]) in self.claimed or not _is_step(readers[0]):
                break
            steps.append(self._step(readers[0], value, operands))
            self.claimed.add(id(readers[0]))
            value = readers[0].output
        return self._stores(value, steps, operands, stream=True)

    def _stores(
        self, value: str, steps: list[Step], operands: list[Operand], *, stream: bool
    ) -> tuple[Epilogue, tuple[str, ...]]:
        """Rule 3. `stream` allows a store of the value itself (it is not one of the group's own input)."""
        stores: list[Store] = []
        outputs: list[str] = []
        readers = self.graph.consumers.get(value, [])
        others = [n for n in readers if n.op not in _STORES or id(n) in self.claimed]
        if stream and (others or value in self.outputs or not readers):
            stores.append(StoreStream())
            outputs.append(value)
        for node in readers:
            if node.op in _STORES and id(node) not in self.claimed:
                self.claimed.add(id(node))
                stores.append(self._store(node, operands))
                outputs.append(node.output)
        return Epilogue(tuple(steps), tuple(stores)), tuple(outputs)

    def _step(self, node: Node, value: str, operands: list[Operand]) -> Step:
        """The step that `node` applies to `value`; appends its parameters."""
        channels = self.types[value].channels
        if node.op == "Max":
            return Relu()
        if node.op == "MultiplyShift":
            operands.extend(self._multiply_shift(node, 1))
            return MultiplyShift()
        if node.op == "SkipAdd":
            return self._skip_add(node, value, operands)
        other = node.inputs[1] if node.inputs[0] == value else node.inputs[0]
        if other in self.graph.constants:
            operands.append(_per_channel(self.graph.constants[other], np.int32))
            return AddBias()
        identity: list[Operand] = [
            np.ones(channels, np.int32),
            np.zeros(channels, np.int64),
            np.zeros(channels, np.int32),
        ]
        operands.extend([other, *identity, *identity])
        return SkipAdd(1, True, True)

    def _skip_add(self, node: Node, value: str, operands: list[Operand]) -> SkipAdd:
        first, second = self._multiply_shift(node, 2), self._multiply_shift(node, 5)
        other = node.inputs[1]
        if node.inputs[0] != value:
            other, first, second = node.inputs[0], second, first
        upsample = 1
        producer = self.graph.producers.get(other)
        if producer is not None and producer.op == "Resize":
            rows, columns = resize_factors(producer, self.graph)
            if rows == columns:
                other, upsample = producer.inputs[0], rows
        operands.extend([other, *first, *second])
        return SkipAdd(upsample, _is_identity(first), _is_identity(second))

    def _store(self, node: Node, operands: list[Operand]) -> Store:
        value = self.types[node.output]
        lo = node.attributes["lo"]
        if node.op == "Requantize":
            operands.extend(self._multiply_shift(node, 1))
            return StoreRequantize(lo, node.attributes["hi"], value.dtype)
        thresholds = constant(self.graph, node, 2)
        steps = thresholds.shape[0]
        operands.append(_per_channel(constant(self.graph, node, 1), np.int32))
        operands.append(np.ascontiguousarray(thresholds.reshape(steps, value.channels)))
        return StoreThreshold(lo, steps, value.dtype)

    def _multiply_shift(self, node: Node, index: int) -> list[np.ndarray]:
        """c int32, B int64, d int32, each [C], from the three inputs of `node` beginning at `index`."""
        return [
            _per_channel(constant(self.graph, node, index + i), dtype)
            for i, dtype in enumerate((np.int32, np.int64, np.int32))
        ]

    def _movement(self, node: Node) -> Operation:
        self.claimed.add(id(node))
        if node.op == "PadImage":
            return self._pad(node)
        if node.op == "Concat":
            return Concat(node.name, node.inputs, node.output)
        if node.op == "Resize":
            return Resize(node.name, node.inputs[0], node.output, resize_factors(node, self.graph))
        return MaxPool(node.name, node.inputs[0], node.output, *pool_geometry(node))

    def _pad(self, node: Node) -> Pad:
        _, _, top, left, _, _, bottom, right = node.attributes["pads"]
        values = _per_channel(constant(self.graph, node, 1), np.int32)
        return Pad(node.name, node.inputs[0], node.output, (top, left, bottom, right), tuple(values.tolist()))


def _is_step(node: Node) -> bool:
    return node.op in ("Add", "Max", "MultiplyShift", "SkipAdd")


def _is_identity(parameters: list[np.ndarray]) -> bool:
    c, b, d = parameters
    return bool(np.all(c == 1) and not b.any() and not d.any())


def _per_channel(value: np.ndarray, dtype: type) -> np.ndarray:
    """`value` [1, C, 1, 1] as [C] of `dtype`, which the reader has shown to hold it."""
    return np.ascontiguousarray(value.reshape(-1), dtype)


def _zero_point_bias(node: Node, weight: np.ndarray, zero: int) -> np.ndarray:
    """Σ (x − z)·w = Σ x·w − z·Σ w when the padding is z: the second term, int32 [O]."""
    bias = -zero * weight.reshape(weight.shape[0], -1).astype(np.int64).sum(axis=1)
    if bias.min() < _INT32.min or bias.max() > _INT32.max:
        raise RangeError(f"the zero point of {node.name} leaves int32", received=int(np.abs(bias).max()))
    return bias.astype(np.int32)
