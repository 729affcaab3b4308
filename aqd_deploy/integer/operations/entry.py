"""What an operation says of itself, one class an operation: docs/integer-dialect.md as code."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from onnx import FunctionProto, NodeProto, helper

from aqd_deploy.errors import ShapeError, UnsupportedModelError
from aqd_deploy.integer.arithmetic import Arithmetic
from aqd_deploy.integer.attributes import Attribute
from aqd_deploy.integer.domain import DOMAIN, OPSET
from aqd_deploy.integer.graph import Graph, Node
from aqd_deploy.integer.ranges import Interval
from aqd_deploy.integer.types import CODES, ELEMENT_TYPES, TensorType

STREAM = ("int32",)
ANY = (*CODES, *STREAM)

# What an operation returns beside a dtype's name (`Operation.returns`).
SAME = "the type of the first input"
TO = "the type that the attribute `to` names"

PER_CHANNEL = (1, "C", 1, 1)


@dataclass(frozen=True)
class Operand:
    """A constant input: its dtype, "" for that of the first input or `TO`, and its shape.

    In `shape`, "C" is the number of channels of the first input, "*" any number from 1. `or_scalar`: one
    number, of shape (), may stand for all.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    optional: bool = False
    or_scalar: bool = False


class Operation(ABC):
    """One operation. As it stands, one of ONNX's own; `Function` is one that the dialect adds.

    A node has `data` computed inputs (least, most; None: any number) of types in `accepts`, then the
    constants `operands`, None where ONNX has an input that the dialect does without.
    """

    name: str
    domain = ""
    data: tuple[int, int | None] = (1, 1)
    accepts: tuple[str, ...] = STREAM
    operands: tuple[Operand | None, ...] = ()
    attributes: ClassVar[Mapping[str, Attribute]] = {}

    returns = "int32"
    """dtype of the result, or `SAME`, or `TO`."""

    moves_data = False
    """Whether every value of the result is one of the computed inputs'."""

    renames = False
    """Whether the result is the first input itself, under another name."""

    float_operands: tuple[str, ...] = ()
    """Operands that ONNX wants as float although whole numbers are all they hold."""

    @property
    def inputs(self) -> tuple[int, int | None]:
        """The least and the largest number of inputs; None: any."""
        least, most = self.data
        needed = [i for i, operand in enumerate(self.operands, 1) if operand and not operand.optional]
        return least + max(needed, default=0), None if most is None else least + len(self.operands)

    def matches(self, op_type: str) -> bool:
        """Whether nodes of this type are the operation's."""
        return op_type == self.name

    @property
    def slots(self) -> dict[str, int]:
        """The place of each operand among a node's inputs, by its name."""
        return {operand.name: i for i, operand in enumerate(self.operands, self.data[0]) if operand}

    def check(self, node: Node, graph: Graph) -> None:
        """Raise UnsupportedModelError or ShapeError for what the fields cannot say."""
        return

    def check_sources(self, label: str, types: Sequence[TensorType]) -> None:
        """Raise UnsupportedModelError or ShapeError for computed inputs that do not go together: all are of
        one type, and two of one shape.
        """
        if len({kind.dtype for kind in types}) > 1:
            raise UnsupportedModelError(
                f"{label} reads tensors of several types",
                received=", ".join(kind.dtype for kind in types),
                valid="one type",
            )
        if self.data[1] == 2 and len(set(types)) > 1:
            raise ShapeError(f"{label} joins unlike tensors", received=[list(t.nchw) for t in types])

    def shape(self, node: Node, graph: Graph) -> tuple[int, int, int]:
        """[H, W, C] of the result. Raises ShapeError for inputs that do not fit."""
        return source_type(node, graph).shape

    def result(self, node: Node, graph: Graph) -> TensorType:
        """The type of the result. Raises what `shape` does."""
        dtype = self.returns
        if dtype == SAME:
            dtype = source_type(node, graph).dtype
        elif dtype == TO:
            dtype = ELEMENT_TYPES[node.attributes["to"]]
        return TensorType(*self.shape(node, graph), dtype)

    def codes(self, node: Node, graph: Graph) -> tuple[int, int] | None:
        """The least and the largest code that the result can have by the operation itself, whatever it reads;
        None where that is not known.
        """
        return None

    def arithmetic(self, node: Node, graph: Graph) -> Arithmetic:
        """What one run computes. As it stands, of an operation that only moves or looks up integers."""
        return Arithmetic()

    @abstractmethod
    def interval(self, node: Node, graph: Graph) -> Interval:
        """The proven interval of the result, per channel.

        Raises RangeError where an integer leaves what its arithmetic can hold, UnsupportedModelError for a
        constant that gives the operation another meaning.
        """

    @abstractmethod
    def meaning(self, node: Node, graph: Graph, values: Sequence[np.ndarray]) -> np.ndarray:
        """The result [1, C, H, W] in numpy; `values` are the inputs and constants by place, all int64."""


class Function(Operation):
    """An operation that ONNX has no integer word for: a function of the domain `aqd.integer`."""

    domain = DOMAIN
    sources: tuple[str, ...] = ("x",)
    """Names of the computed inputs in the body."""

    def function(self, op_type: str) -> FunctionProto:
        """The model-local function that nodes of type `op_type` call."""
        operands = [operand.name for operand in self.operands if operand]
        return helper.make_function(
            DOMAIN,
            op_type,
            [*self.sources, *operands],
            ["y"],
            self.body(op_type),
            [helper.make_opsetid("", OPSET)],
            list(self.attributes),
        )

    def smallest_body(self, op_type: str) -> int:
        """A number of nodes that the body has at least, known without building it: a file's shorter function
        of that name is another.
        """
        return 0

    @abstractmethod
    def body(self, op_type: str) -> list[NodeProto]:
        """Standard ONNX from `sources`, `operands` and `attributes` to "y", which onnxruntime's CPU provider
        runs.
        """


def source_type(node: Node, graph: Graph) -> TensorType:
    """The type of the first input."""
    return graph.types[node.slots[0]]


def source_interval(node: Node, graph: Graph) -> Interval:
    """The interval of the first input."""
    return graph.ranges[node.slots[0]]


def elements(node: Node, graph: Graph) -> int:
    """How many integers the result has."""
    return math.prod(graph.types[node.output].shape)


def per_channel(node: Node, graph: Graph, name: str) -> np.ndarray:
    """The operand `name`, [1, C, 1, 1] or one number for all, as int64 [C] or [1]."""
    return graph.operand(node, name).reshape(-1).astype(np.int64)
