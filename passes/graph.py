"""The graph that the passes rewrite: a list of nodes in topological order between the QDQ file and the
integer file.

Tensors are of two kinds. *Real* ones are what the QDQ file computes with; *integer* ones are what the
integer file will hold. `Scale` nodes go from an integer tensor to the real one it stands for, `Quantize`
nodes the other way. The passes push them towards each other until no real tensor is left. What a node does is
a payload of its own type: `operations.py` has all kinds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from aqd_deploy.errors import ModelFileError
from aqd_deploy.integer.ranges import Interval
from aqd_deploy.integer.rational import ChannelForm
from aqd_deploy.passes.names import Names


@dataclass(frozen=True)
class Operation:
    """What a node does with its inputs, and all that is known of how; a frozen dataclass a kind."""

    @property
    def name(self) -> str:
        """How messages name the operation: ONNX's word where it has one."""
        return type(self).__name__


@dataclass(eq=False)
class Node:
    """One operation with one output. `source` names the node of the QDQ file it comes from."""

    op: Operation
    inputs: list[str]
    output: str
    source: str = ""

    @property
    def label(self) -> str:
        """How messages name the node: its name in the QDQ file, else its output."""
        return self.source or self.output


@dataclass(frozen=True)
class Quantized:
    """A constant behind a DequantizeLinear: its integers minus their zero points (int64), and the scales that
    they are multiplied by, one or one for each index of `axis`. `name` is the initializer's.
    """

    name: str
    values: np.ndarray
    scales: list[Fraction]
    axis: int

    def reals(self) -> list[Fraction]:
        """Every element as the exact number it stands for, flattened."""
        shape = [1] * self.values.ndim
        if len(self.scales) > 1:
            shape[self.axis] = len(self.scales)
        index = np.broadcast_to(np.arange(len(self.scales)).reshape(shape), self.values.shape)
        pairs = zip(self.values.ravel().tolist(), index.ravel().tolist(), strict=True)
        return [value * self.scales[i] for value, i in pairs]


@dataclass(frozen=True)
class Head:
    """What the integers of a graph output stand for: a scale a channel, and a bound of their error in it.
    Codes, stored as `dtype`, have a zero point.
    """

    forms: list[ChannelForm]
    error: float
    dtype: str = "int32"
    zero_point: int = 0


@dataclass(frozen=True)
class Meaning:
    """What an integer tensor η stands for: in every channel `forms` make the tensor `real` of the canonical
    file of it. `error` [C] bounds, in units of η, how far η is from the exact value behind the same codes.
    """

    real: str
    forms: list[ChannelForm]
    error: np.ndarray


@dataclass
class Graph:
    """Nodes in topological order, tensor shapes, and constants.

    `inputs`: names and ONNX element types. `constants` are arrays of the file, `quantized` those behind a
    DequantizeLinear. `ranges`: proven intervals of integer tensors. `heads`: of every
    output, once it is an integer tensor. `meanings`: of the integer tensors that stand for a real one, once
    scales have moved.
    """

    name: str
    inputs: dict[str, int]
    outputs: list[str]
    nodes: list[Node]
    shapes: dict[str, tuple[int, ...]]
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    quantized: dict[str, Quantized] = field(default_factory=dict)
    ranges: dict[str, Interval] = field(default_factory=dict)
    heads: dict[str, Head] = field(default_factory=dict)
    meanings: dict[str, Meaning] = field(default_factory=dict)
    names: Names = field(default_factory=Names)

    def is_constant(self, name: str) -> bool:
        """Whether the tensor is known before the program runs."""
        return name in self.constants or name in self.quantized

    def producers(self) -> dict[str, Node]:
        """Tensor name to the node that makes it."""
        return {node.output: node for node in self.nodes}

    def consumers(self) -> dict[str, list[Node]]:
        """Tensor name to the nodes that read it, in order; a node that reads it twice is listed once."""
        table: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                table.setdefault(name, []).append(node)
        return table

    def fresh(self, base: str) -> str:
        """A tensor name that the graph has never had: `base`, or `base` with a number."""
        return self.names.fresh(base)

    def remove_dead(self) -> list[Node]:
        """Drops nodes whose output nothing reads; returns them."""
        wanted = set(self.outputs)
        kept: list[Node] = []
        dead: list[Node] = []
        for node in reversed(self.nodes):
            if node.output in wanted:
                wanted.update(node.inputs)
                kept.append(node)
            else:
                dead.append(node)
        self.nodes = kept[::-1]
        return dead


def topological(nodes: Iterable[Node], available: set[str]) -> list[Node]:
    """The nodes reordered so that inputs come before their readers; `available` are the names known from
    the start.

    Keeps the given order wherever it can.
    """
    waiting = list(nodes)
    made = {node.output for node in waiting}
    done = set(available)
    ordered: list[Node] = []
    while waiting:
        rest = []
        for node in waiting:
            if all(name in done or name not in made for name in node.inputs):
                ordered.append(node)
                done.add(node.output)
            else:
                rest.append(node)
        if len(rest) == len(waiting):
            raise ModelFileError(f"the graph has a cycle through {rest[0].output}")
        waiting = rest
    return ordered
