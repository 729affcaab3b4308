"""The graph of an integer file that `integer.reader` has held to the rules of docs/integer-dialect.md."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from aqd_deploy.integer.ranges import Interval, TapSums
from aqd_deploy.integer.types import TensorType

if TYPE_CHECKING:
    from aqd_deploy.integer.operations.entry import Operation


@dataclass(frozen=True, eq=False)
class Node:
    """One ONNX node: its `entry` in the dialect, its type `op` without the domain, its single output, all
    attributes with their defaults.

    `slots` are the inputs by position, "" where one is left out.
    """

    entry: Operation
    name: str
    op: str
    slots: tuple[str, ...]
    output: str
    attributes: dict[str, Any]

    @property
    def inputs(self) -> tuple[str, ...]:
        """The inputs that are there."""
        return tuple(name for name in self.slots if name)

    @property
    def label(self) -> str:
        """How messages name the node."""
        return f"{self.op} {self.name}"


@dataclass
class Graph:
    """Nodes in topological order, constants by name, and of every other tensor its type and proven interval.

    `aliases`: other names of tensors, and those tensors. `tap_sums`: of the weights, by the
    operation and the names of the constants that make them.
    """

    inputs: list[str]
    outputs: list[str]
    nodes: list[Node]
    constants: dict[str, np.ndarray]
    types: dict[str, TensorType]
    ranges: dict[str, Interval] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    consumers: dict[str, list[Node]] = field(default_factory=dict)
    producers: dict[str, Node] = field(default_factory=dict)
    tap_sums: dict[tuple[str, ...], TapSums] = field(default_factory=dict)

    def tensor(self, name: str) -> str:
        """The tensor that `name` is a name of."""
        return self.aliases.get(name, name)

    def has_operand(self, node: Node, name: str) -> bool:
        """Whether the entry of `node` has a constant input `name`, and it is there."""
        slot = node.entry.slots.get(name, len(node.slots))
        return slot < len(node.slots) and node.slots[slot] in self.constants

    def operand(self, node: Node, name: str) -> np.ndarray:
        """The constant input that the entry of `node` calls `name`."""
        return self.constants[node.slots[node.entry.slots[name]]]

    @property
    def stored_outputs(self) -> list[str]:
        """The tensors behind `outputs`, each once."""
        return list(dict.fromkeys(self.tensor(name) for name in self.outputs))
