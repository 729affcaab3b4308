"""Graph → plan: every convolution takes with it what follows its accumulators.

What each operation becomes stands in `compiler.lowerings`; here is which of them run as one. Rules, in the
order they are tried; each keeps the integers as they are because the nodes it merges are applied to the same
value in the same order:

1. A group starts at a convolution, or at an element-wise node whose input is not the value of a growing group
   (it comes from a pool or a concat, or has several readers).
2. While the group's value has exactly one reader and is not a graph output, that reader joins the group as a
   stage: bias, multiply-shift, clip, table, or a sum or product whose other operand is a stored tensor. The
   other operand cannot depend on the group: its only way out is the value just joined. A quantizer joins
   where the one reader of its codes does.
3. At the end of the chain codes are stored as they are. Of a stream every quantizer that reads it becomes a
   store; anything else that reads it, or a graph output, adds one store of the int32 stream.
4. A padding before a convolution without pads of its own becomes the convolution's padding values. An
   upsampling and a cast read by a skip-add become the skip-add's. Each is still executed where somebody else
   reads it; what a skip-add reads in this way is stored.
5. Weights of 9 bits are sums of weights of 8, whose convolutions are added.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace

import numpy as np

from aqd_deploy.compiler.lowerings import (
    Convolves,
    Moves,
    Stages,
    Stores,
    identity,
    lowering_of,
    movement_of,
)
from aqd_deploy.compiler.plan import Conv, Operand, Operation, Pad, Plan, Pointwise, Resize
from aqd_deploy.compiler.ranges import activation_ranges, weight_range, weight_step
from aqd_deploy.compiler.schedule import in_order, live
from aqd_deploy.errors import RangeError
from aqd_deploy.integer.graph import Graph, Node
from aqd_deploy.integer.operations.convolution import Convolution, zero_point
from aqd_deploy.kernels.contract.spec import (
    AddBias,
    ConvSpec,
    Epilogue,
    SkipAdd,
    Stage,
    Store,
    StoreCodes,
    StoreStream,
)
from aqd_deploy.kernels.winograd.forms import exact_forms, may_winograd, true_weights

_INT32 = np.iinfo(np.int32)


def fuse(graph: Graph) -> Plan:
    """The plan of `graph`; its outputs are those of the graph, tensors with several names once. Raises
    RangeError for a zero point whose bias leaves int32, UnsupportedModelError for an operation that programs
    cannot run.
    """
    return _Fusion(graph).plan()


class _Fusion:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.outputs = graph.stored_outputs
        self.claimed: set[int] = set()
        # Tensors that groups read as their other operands.
        self.needed: set[str] = set()
        self.weights: dict[str, np.ndarray] = {}
        self.types = dict(graph.types)
        self.ranges = activation_ranges(graph)
        self.forms: dict[Hashable, tuple[str, ...]] = {}

    def plan(self) -> Plan:
        operations: list[Operation] = []
        # A cast comes last: what it is a cast for may read the codes themselves.
        for node in sorted(self.graph.nodes, key=_widens):
            if id(node) not in self.claimed:
                operations += self._operations(node)
        operations = in_order(live(operations, self.outputs))
        used = {operation.weight for operation in operations if isinstance(operation, Conv)}
        weights = {name: value for name, value in self.weights.items() if name in used}
        return Plan(self.graph.inputs, self.outputs, operations, self.types, weights)

    def _operations(self, node: Node) -> list[Operation]:
        """The operation that starts at `node`, with what it needs; it claims every node that joins it."""
        match lowering_of(node):
            case Convolves(odd, wide):
                return self._wide_conv(node) if wide else [self._conv(node, node.slots[1], odd=odd)]
            case Stores():
                alone = self.graph.consumers[node.slots[0]] == [node] and self._goes_on(node.output)
                return [self._pointwise(node) if alone else self._quantizers(node)]
            case Stages():
                return [self._pointwise(node)]
            case Moves(make):
                return [make(node, self.graph)]

    def _wide_conv(self, node: Node) -> list[Operation]:
        """Rule 5: as many as it takes, each with what int8 holds of the rest; the last one is the group's."""
        assert isinstance(node.entry, Convolution)
        rest, parts = node.entry.true_weights(node, self.graph), list[str]()
        while rest.any() or not parts:
            parts.append(self._fresh(f"{node.output}:part{len(parts)}"))
            self.weights[parts[-1]] = np.clip(rest, -128, 127).astype(np.int8)
            rest = rest - self.weights[parts[-1]]
        operations: list[Operation] = []
        added = ""
        for part in parts[:0:-1]:
            self.types[part] = self.types[node.output]
            operations.append(self._conv(node, part, alone=part, added=added))
            added = part
        return [*operations, self._conv(node, parts[0], added=added)]

    def _conv(self, node: Node, name: str, *, odd: bool = False, alone: str = "", added: str = "") -> Conv:
        """The group of a convolution with weights `name`, a constant or one of `weights`. `alone`: only the
        accumulators, as a stream of that name. `added`: a stream that is added to them first.
        """
        source, pads, pad_values = self._padding(node)
        x = self.types[source]
        weight = self.weights[name] if name in self.weights else self.graph.constants[name]
        self.weights[name] = weight
        stages: list[Stage] = []
        operands: list[Operand] = []
        zero = zero_point(node, self.graph)
        if zero:
            stages.append(AddBias())
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
            odd=odd,
            pad_values=pad_values if any(pads) and any(pad_values or ()) else None,
            input_signed=x.dtype == "int8",
            input_range=self.ranges.get(source),
            weight_range=weight_range(weight),
            weight_step=weight_step(weight),
        )
        if may_winograd(spec):
            spec = replace(spec, winograd=self._winograd_forms(name, weight, spec))
        if added:
            stages.append(SkipAdd(1, True, True))
            operands += [added, *identity(len(weight)), *identity(len(weight))]
        if alone:
            return Conv(alone, source, name, spec, Epilogue(tuple(stages)), tuple(operands), (alone,))
        epilogue, outputs = self._grow(node.output, stages, operands)
        return Conv(node.name, source, name, spec, epilogue, tuple(operands), outputs)

    def _fresh(self, name: str) -> str:
        """A name that neither the graph nor the plan has."""
        while name in self.types or name in self.graph.constants or name in self.weights:
            name += "'"
        return name

    def _winograd_forms(self, name: str, weight: np.ndarray, spec: ConvSpec) -> tuple[str, ...]:
        key = (name, spec.odd, spec.input_range)
        if key not in self.forms:
            self.forms[key] = exact_forms(true_weights(weight, spec.odd), spec.input_range)
        return self.forms[key]

    def _padding(self, node: Node) -> tuple[str, tuple[int, int, int, int], tuple[int, ...] | None]:
        """Input, pads and padding values (those of a padding before it) of a convolution: rule 4."""
        pads = node.attributes["pads"]
        pad = movement_of(node.slots[0], self.graph)
        if not isinstance(pad, Pad) or any(pads):
            return node.slots[0], pads, None
        return pad.input, pad.pads, pad.values

    def _quantizers(self, node: Node) -> Pointwise:
        """Rule 1 for a node that stores: all that read one tensor share one pass over it."""
        source, operands = node.slots[0], list[Operand]()
        epilogue, outputs = self._stores(source, [], operands, stream=False)
        return Pointwise(node.name, source, epilogue, tuple(operands), outputs)

    def _pointwise(self, node: Node) -> Pointwise:
        """Rule 1, second case."""
        source = self._data_input(node)
        stages: list[Stage] = []
        operands: list[Operand] = []
        self._join(node, source, stages, operands)
        epilogue, outputs = self._grow(node.output, stages, operands)
        return Pointwise(node.name, source, epilogue, tuple(operands), outputs)

    def _data_input(self, node: Node) -> str:
        """The computed input that a pass runs over; the other one of a skip-add keeps the upsampling (rule
        4), and that of a product may be of one pixel.
        """
        whole = self.types[node.output].height, self.types[node.output].width
        computed = [name for name in node.inputs if name in self.types]
        computed = [n for n in computed if (self.types[n].height, self.types[n].width) == whole]
        full = [name for name in computed if not isinstance(movement_of(name, self.graph), Resize)]
        return (full or computed)[0]

    def _grow(
        self, value: str, stages: list[Stage], operands: list[Operand]
    ) -> tuple[Epilogue, tuple[str, ...]]:
        """Rules 2 and 3 from `value` on; appends to `stages` and `operands`."""
        while (node := self._next(value)) is not None:
            self._join(node, value, stages, operands)
            value = node.output
        return self._stores(value, stages, operands, stream=True)

    def _next(self, value: str) -> Node | None:
        """The node that joins a group whose value is `value`, None where it ends: rule 2."""
        readers = self.graph.consumers.get(value, [])
        if value in self.outputs or value in self.needed or len(readers) != 1:
            return None
        (node,) = readers
        if id(node) in self.claimed or self.types[node.output].shape != self.types[value].shape:
            return None
        match lowering_of(node):
            case Stages(_, alone):
                joins = alone or self._goes_on(node.output)
            case Stores():
                joins = self._goes_on(node.output)
            case Convolves() | Moves():
                joins = False
        return node if joins else None

    def _goes_on(self, value: str) -> bool:
        """Whether a group does not end at `value`."""
        return self._next(value) is not None

    def _join(self, node: Node, value: str, stages: list[Stage], operands: list[Operand]) -> None:
        """Claims `node` as a stage on `value`."""
        self.claimed.add(id(node))
        match lowering_of(node):
            case Stores(make, kind):
                store, parameters = make(node, self.graph)
                stages.append(kind(**vars(store)))
                operands += parameters
            case Stages(make):
                stage, more = make(node, value, self.graph)
                stages += [stage] if stage is not None else []
                operands += more
                self.needed.update(operand for operand in more if isinstance(operand, str))

    def _stores(
        self, value: str, stages: list[Stage], operands: list[Operand], *, stream: bool
    ) -> tuple[Epilogue, tuple[str, ...]]:
        """Rule 3. `stream` allows a store of the value itself (it is not one of the group's own input)."""
        if self.types[value].dtype != "int32":
            return Epilogue(tuple(stages), (StoreCodes(self.types[value].dtype),)), (value,)
        stores: list[Store] = []
        outputs: list[str] = []
        readers = self.graph.consumers.get(value, [])
        lowerings = [None if id(node) in self.claimed else lowering_of(node) for node in readers]
        others = not all(isinstance(lowering, Stores) for lowering in lowerings)
        if stream and (others or value in self.outputs or not readers):
            stores.append(StoreStream())
            outputs.append(value)
        for node, lowering in zip(readers, lowerings, strict=True):
            if isinstance(lowering, Stores):
                self.claimed.add(id(node))
                store, parameters = lowering.make(node, self.graph)
                stores.append(store)
                operands += parameters
                outputs.append(node.output)
        return Epilogue(tuple(stages), tuple(stores)), tuple(outputs)


def _widens(node: Node) -> bool:
    lowering = lowering_of(node)
    return isinstance(lowering, Stages) and not lowering.alone


def _zero_point_bias(node: Node, weight: np.ndarray, zero: int) -> np.ndarray:
    """Σ (x − z)·w = Σ x·w − z·Σ w when the padding is z: the second term, int32 [O]."""
    bias = -zero * weight.reshape(weight.shape[0], -1).astype(np.int64).sum(axis=1)
    if bias.min() < _INT32.min or bias.max() > _INT32.max:
        raise RangeError(f"the zero point of {node.name} leaves int32", received=int(np.abs(bias).max()))
    return bias.astype(np.int32)
