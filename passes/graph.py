"""The graph that the passes rewrite: a list of nodes in topological order between the QDQ file and the
integer file.

Tensors are of two kinds. *Real* ones are what the QDQ file computes with; *integer* ones are what the
integer file will hold. `Scale` nodes go from an integer tensor to the real one it stands for, `Quantize`
nodes the other way. The passes push them towards each other until no real tensor is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import TensorProto

from aqd_deploy.errors import ModelFileError, RangeError, line_of
from aqd_deploy.integer.ranges import Interval
from aqd_deploy.integer.rational import ChannelForm
from aqd_deploy.passes.names import Names


@dataclass(eq=False)
class Node:
    """One operation with one output. `source` names the node of the QDQ file it comes from."""

    op: str
    inputs: list[str]
    output: str
    attributes: dict[str, Any] = field(default_factory=dict)
    source: str = ""

    @property
    def label(self) -> str:
        """How messages name the node: its name in the QDQ file, else its output."""
        return self.source or self.output


@dataclass(frozen=True)
class Weights:
    """Integer convolution weights [O, I/group, kh, kw] (int64) of one initializer, and one scale per output
    channel.
    """

    name: str
    values: np.ndarray
    forms: list[ChannelForm]


@dataclass
class Graph:
    """Nodes in topological order, tensor shapes, constants, and what the manifest will say.

    `inputs`: names and ONNX element types.
    """

    name: str
    inputs: dict[str, int]
    outputs: list[str]
    nodes: list[Node]
    shapes: dict[str, tuple[int, ...]]
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    weights: dict[str, Weights] = field(default_factory=dict)
    ranges: dict[str, Interval] = field(default_factory=dict)
    output_forms: dict[str, list[ChannelForm]] = field(default_factory=dict)
    manifest: dict[str, Any] = field(default_factory=dict)
    names: Names = field(default_factory=Names)

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


@dataclass
class PassResult:
    """What a pass did: how many rewrites, what changed, and why each candidate left alone was left alone."""

    name: str
    changed: list[str] = field(default_factory=list)
    left_alone: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able view."""
        return {"pass": self.name, "changed": self.changed, "left_alone": self.left_alone}


class Pass:
    """One rewrite of the graph, in place.

    `requires` and `ensures` are sentences for people. `removes` names the operations that no node has after
    the pass; `check` holds it to that.
    """

    name = ""
    requires = ""
    ensures = ""
    removes: tuple[str, ...] = ()

    def run(self, graph: Graph) -> PassResult:
        """Rewrites `graph`; raises the typed errors of aqd_deploy.errors for what it must refuse."""
        raise NotImplementedError

    def check(self, graph: Graph) -> None:
        """RuntimeError where the pass left an operation that it ensures to be gone: a bug of the pass."""
        for node in graph.nodes:
            if node.op in self.removes:
                raise RuntimeError(f"{self.name} left {node.op} {node.label}")


@contextmanager
def arithmetic_of(node: Node) -> Iterator[None]:
    """Makes a RangeError that names `node` of an arithmetic that its scales leave."""
    try:
        yield
    except ArithmeticError as error:
        raise RangeError(
            f"node {node.label}: its scales leave integer arithmetic: {line_of(error)}",
            valid="steps and batch norms of about the same size in all layers",
            next_command="retrain this layer, then aqd-deploy export CHECKPOINT.pt -o m.qdq.onnx",
        ) from error


STRUCTURAL = ("MaxPool", "Resize", "Concat")
"""Operations that only select or place elements: the same on real and on integer tensors."""


def data_inputs(node: Node) -> list[str]:
    """The tensors whose elements a structural node selects or places."""
    return node.inputs if node.op == "Concat" else node.inputs[:1]


def codes_of(graph: Graph) -> dict[str, str]:
    """How the codes of every integer tensor are stored, `uint8` or `int8`; real tensors are left out."""
    codes = {name: storage(kind) for name, kind in graph.inputs.items()}
    for node in graph.nodes:
        note_codes(node, codes)
    return codes


def note_codes(node: Node, codes: dict[str, str]) -> None:
    """Enters the output of `node` into the table of codes_of where it holds codes.

    Codes come from a graph input or a Quantize node, through structural nodes; a Concat that joins both kinds
    makes none.
    """
    kinds = set()
    if node.op == "Quantize":
        kinds = {node.attributes["dtype"]}
    elif node.op in STRUCTURAL:
        kinds = {codes.get(name, "") for name in data_inputs(node)}
    if len(kinds) == 1 and "" not in kinds:
        codes[node.output] = kinds.pop()


def storage(kind: int) -> str:
    """How an 8-bit graph input of an ONNX element type is stored."""
    return "int8" if kind == TensorProto.INT8 else "uint8"


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
