"""The one door through which integer ONNX comes in: whatever breaks docs/integer-dialect.md ends here.

`compile`, `tune`, `bench --estimate` and `inspect` all read by `read_graph`. A file that passes means the
same to onnxruntime, the reference, and to the compiler.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import NodeProto, ValueInfoProto

from aqd_deploy.errors import ModelFileError, ShapeError, UnsupportedModelError
from aqd_deploy.integer.attributes import read_attributes
from aqd_deploy.integer.bodies import check_functions
from aqd_deploy.integer.constants import node_constant, read_initializers
from aqd_deploy.integer.domain import DOMAIN, DOMAIN_VERSION, IR_VERSION, OPSET, canonical_domain
from aqd_deploy.integer.graph import Graph, Node
from aqd_deploy.integer.manifest import read_manifest
from aqd_deploy.integer.manifest_ranges import check_ranges
from aqd_deploy.integer.names import RESERVED_SUFFIX, check_names
from aqd_deploy.integer.operations import operation_of
from aqd_deploy.integer.operations.entry import TO, Operand, Operation
from aqd_deploy.integer.ranges import Interval
from aqd_deploy.integer.types import (
    CODES,
    ELEMENT_TYPES,
    MAX_CHANNELS,
    MAX_ELEMENTS,
    TensorType,
    element_name,
)

_NEXT = "aqd-deploy lower MODEL.qdq.onnx -o MODEL.int.onnx"


def read_graph(model: onnx.ModelProto) -> Graph:
    """The graph of an integer model that follows the dialect in everything.

    Raises UnsupportedModelError for something that the dialect does not have, ShapeError for a shape that is
    not static [1, C, H, W] or does not fit, RangeError for integers that can leave their arithmetic,
    ModelFileError for a file that is damaged.
    """
    check_names(model)
    _check_envelope(model)
    check_functions(model)
    graph = _Reader(model.graph).read()
    check_ranges(read_manifest(model), graph)
    return graph


def _check_envelope(model: onnx.ModelProto) -> None:
    """ "An ordinary ONNX file (opset 21, IR version 10, static shapes)", and nothing beside the graph, the
    functions and metadata.
    """
    if model.ir_version != IR_VERSION:
        raise UnsupportedModelError(
            "the file has another IR version", received=model.ir_version, valid=str(IR_VERSION)
        )
    versions = [(canonical_domain(entry.domain), entry.version) for entry in model.opset_import]
    wanted = [("", OPSET), (DOMAIN, DOMAIN_VERSION)]
    if sorted(versions) != wanted:
        raise UnsupportedModelError(
            "the file's operator sets are not those of the integer dialect",
            received=", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in versions),
            valid=", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in wanted),
            next_command=_NEXT,
        )
    graph = model.graph
    extras = {
        "training information": model.training_info,
        "sparse initializers": graph.sparse_initializer,
        "quantization annotations": graph.quantization_annotation,
        "configurations of several devices": getattr(model, "configuration", ()),
    }
    for what, entries in extras.items():
        if len(entries):
            raise UnsupportedModelError(f"the file holds {what}", valid="nodes, initializers and functions")
    keys = [entry.key for entry in model.metadata_props]
    if len(set(keys)) != len(keys):
        raise ModelFileError(
            "the file's metadata has a key twice", received=repr(sorted(map(repr, keys)))[:80]
        )


class _Reader:
    """Goes through one GraphProto in its order: inputs, initializers, nodes, outputs."""

    def __init__(self, proto: onnx.GraphProto) -> None:
        self.proto = proto
        self.names: set[str] = set()
        self.taken: set[str] = set()
        outputs = [value.name for value in proto.output]
        self.graph = Graph([], outputs, [], read_initializers(proto.initializer), {})

    def read(self) -> Graph:
        for name in self.graph.constants:
            self._define(name, "an initializer")
        for value in self.proto.input:
            self._input(value)
        for proto in self.proto.node:
            self._node(proto)
        self._outputs()
        for value in self.proto.value_info:
            self._check_declared(value, "tensor")
        return self.graph

    def _define(self, name: str, where: str) -> None:
        """ "Every tensor has a name of its own and one place that makes it." """
        if not name or name in self.taken or name.endswith(RESERVED_SUFFIX):
            reason = "without a name" if not name else "of a name that is taken"
            raise UnsupportedModelError(
                f"{where} makes a tensor {reason}",
                received=repr(name),
                valid=f"names that differ and do not end in {RESERVED_SUFFIX}",
            )
        self.taken.add(name)

    def _input(self, value: ValueInfoProto) -> None:
        """ "An input is u8 or s8 of a static shape [1, C, H, W]", and no initializer."""
        self._define(value.name, "an input of the graph")
        kind = _input_type(value)
        self._add_type(value.name, f"input {value.name}", kind)
        limits = np.iinfo(kind.dtype)
        self.graph.ranges[value.name] = Interval.uniform(kind.channels, int(limits.min), int(limits.max))
        self.graph.inputs.append(value.name)

    def _node(self, proto: NodeProto) -> None:
        label = f"{proto.op_type} {proto.name or ', '.join(proto.output)}"
        if len(proto.output) != 1:
            raise UnsupportedModelError(
                f"{label} has another number of outputs", received=len(proto.output), valid="one"
            )
        output = proto.output[0]
        if canonical_domain(proto.domain) == "" and proto.op_type == "Constant" and not proto.overload:
            self._name(proto)
            self._define(output, label)
            self.graph.constants[output] = node_constant(proto, label)
            return
        entry = operation_of(proto)
        node = self._as_node(proto, entry)
        self._check_operands(node, entry)
        self._define(output, label)
        if entry.renames:  # "Identity gives a computed tensor another name."
            self.graph.aliases[node.output] = node.slots[0]
            return
        entry.check(node, self.graph)
        self._add_type(output, label, entry.result(node, self.graph))
        self.graph.ranges[output] = entry.interval(node, self.graph)
        self.graph.nodes.append(node)
        self.graph.producers[output] = node
        for name in node.inputs:
            self.graph.consumers.setdefault(name, []).append(node)

    def _name(self, proto: NodeProto) -> str:
        """ "Node names differ (a node without one has its output's)." """
        name = proto.name or proto.output[0]
        if name in self.names:
            raise UnsupportedModelError(f"two nodes have the name {name}", valid="names that differ")
        self.names.add(name)
        return name

    def _as_node(self, proto: NodeProto, entry: Operation) -> Node:
        """ "Nodes stand behind those that they read." """
        name = self._name(proto)
        label = f"{proto.op_type} {name}"
        slots = list(proto.input)
        least, most = entry.inputs
        if len(slots) < least or (most is not None and len(slots) > most) or not slots[-1]:
            raise UnsupportedModelError(
                f"{label} has another number of inputs",
                received=", ".join(repr(slot) for slot in slots[:10]) or "none",
                valid=f"{least}" if most == least else f"{least} to {most or 'any'}",
            )
        for slot in slots:
            if slot and slot not in self.taken:
                raise UnsupportedModelError(
                    f"{label} reads {slot}, which nothing before it makes",
                    valid="nodes in the order they run",
                )
        attributes = read_attributes(proto, entry.attributes, label)
        resolved = tuple(self.graph.tensor(slot) for slot in slots)
        return Node(entry, name, proto.op_type, resolved, proto.output[0], attributes)

    def _check_operands(self, node: Node, entry: Operation) -> None:
        """The computed inputs come first; the constants follow, of the entry's types."""
        least, most = entry.data
        types = self.graph.types
        data: list[str] = []
        for index, slot in enumerate(node.slots):
            if index < least or most is None or (index < most and slot in types):
                if slot not in types:
                    raise UnsupportedModelError(
                        f"{node.label} reads the constant {slot} as its data input", valid="a computed tensor"
                    )
                data.append(slot)
            else:
                self._check_constant(node, index, entry.operands[index - least])
        self._check_data(node, entry, data)

    def _check_data(self, node: Node, entry: Operation, data: list[str]) -> None:
        types = [self.graph.types[name] for name in data]
        if any(kind.dtype not in entry.accepts for kind in types):
            raise UnsupportedModelError(
                f"{node.label} reads tensors of another type",
                received=", ".join(kind.dtype for kind in types),
                valid=" or ".join(entry.accepts),
            )
        entry.check_sources(node.label, types)

    def _check_constant(self, node: Node, index: int, operand: Operand | None) -> None:
        slot, x = node.slots[index], self.graph.types[node.slots[0]]
        if not slot and (operand is None or operand.optional):
            return
        if operand is None:
            raise UnsupportedModelError(
                f"{node.label} has an input that the dialect does without", received=slot, valid="nothing"
            )
        if slot not in self.graph.constants:
            raise UnsupportedModelError(
                f"the input {operand.name} of {node.label} must be an initializer",
                received=f"the computed tensor {slot}" if slot else "nothing",
            )
        array = self.graph.constants[slot]
        shape = [x.channels if size == "C" else size for size in operand.shape]
        dtype = ELEMENT_TYPES[node.attributes["to"]] if operand.dtype == TO else operand.dtype or x.dtype
        fits = (operand.or_scalar and array.ndim == 0) or (
            len(shape) == array.ndim
            and all(size == "*" or size == got for size, got in zip(shape, array.shape, strict=True))
        )
        if array.dtype != dtype or not fits or (array.size == 0 and 0 not in shape):
            raise ShapeError(
                f"the constant {operand.name} of {node.label} has another type or shape",
                received=f"{array.dtype} {list(array.shape)}",
                valid=f"{dtype} {str(shape).replace(chr(39), '')}",
            )

    def _add_type(self, name: str, label: str, kind: TensorType) -> None:
        """ "A tensor has at most 2^16 channels and fewer than 2^31 elements." """
        if kind.channels > MAX_CHANNELS or kind.height * kind.width * kind.channels > MAX_ELEMENTS:
            raise ShapeError(
                f"{label} is too large",
                received=list(kind.nchw),
                valid=f"up to {MAX_CHANNELS} channels and {MAX_ELEMENTS} elements",
            )
        self.graph.types[name] = kind

    def _outputs(self) -> None:
        """ "An output is computed by a node", is one only once, and has the type that it declares."""
        if not self.graph.outputs:
            raise UnsupportedModelError("the graph has no outputs")
        if len(set(self.graph.outputs)) != len(self.graph.outputs):
            raise UnsupportedModelError(
                "the graph names an output twice",
                received=", ".join(self.graph.outputs),
                valid="names that differ; an Identity gives a tensor a second one",
            )
        for value in self.proto.output:
            tensor = self.graph.tensor(value.name)
            if tensor not in self.graph.producers:
                raise UnsupportedModelError(f"output {value.name} is not computed by the graph")
            self._check_declared(value, "output")

    def _check_declared(self, value: ValueInfoProto, what: str) -> None:
        """ "What a file declares of a tensor is what follows from its nodes." """
        name = self.graph.tensor(value.name)
        if name in self.graph.types:
            dtype, shape = self.graph.types[name].dtype, list(self.graph.types[name].nchw)
        elif name in self.graph.constants:
            array = self.graph.constants[name]
            dtype, shape = str(array.dtype), list(array.shape)
        else:
            raise UnsupportedModelError(f"the file declares a tensor {value.name} that it does not have")
        if value.type.WhichOneof("value") != "tensor_type":
            raise UnsupportedModelError(f"{what} {value.name} is declared as another thing than a tensor")
        declared = value.type.tensor_type
        if element_name(declared.elem_type) != dtype:
            raise UnsupportedModelError(
                f"{what} {value.name} is declared with another type than it has",
                received=element_name(declared.elem_type),
                valid=dtype,
            )
        if declared.HasField("shape") and not _agrees(declared.shape, shape):
            raise ShapeError(
                f"{what} {value.name} is declared with another shape than it has",
                received=_written(declared.shape),
                valid=str(shape),
            )


def _input_type(value: ValueInfoProto) -> TensorType:
    tensor = value.type.tensor_type
    sizes = [d.dim_value for d in tensor.shape.dim]
    if len(sizes) != 4 or min(sizes) < 1 or sizes[0] != 1:
        raise ShapeError(
            f"{value.name} has no static shape", received=_written(tensor.shape), valid="[1, C, H, W]"
        )
    dtype = ELEMENT_TYPES.get(tensor.elem_type)
    if dtype not in CODES:
        raise UnsupportedModelError(
            f"the input {value.name} is not an 8-bit tensor",
            received=element_name(tensor.elem_type),
            valid=" or ".join(CODES),
        )
    _, channels, height, width = sizes
    return TensorType(height, width, channels, dtype)


def _written(shape: onnx.TensorShapeProto) -> list[int | str]:
    return [d.dim_value or d.dim_param or "?" for d in shape.dim]


def _agrees(declared: onnx.TensorShapeProto, sizes: Iterable[int]) -> bool:
    """Sizes that are left open agree with any."""
    given = [d.dim_value if d.HasField("dim_value") else None for d in declared.dim]
    sizes = list(sizes)
    return len(given) == len(sizes) and all(g in (None, s) for g, s in zip(given, sizes, strict=True))
