"""What a pass is: a class that is asked what it requires, run, and held to what it ensures.

A new pass is a file with such a class, and a line in `pipeline.py`. Its docstring has the formula, the graph
before and after, and its cases by number; `tests/passes/test_<name>.py` has a test a case.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from onnx import ModelProto

from aqd_deploy.errors import RangeError, UnsupportedModelError, line_of
from aqd_deploy.passes.graph import Graph, Node, Operation
from aqd_deploy.passes.numerics import EXACT

COMPLETE = "aqd-deploy quantize FILE --complete --calibration DIR -o m.qdq.onnx"
"""What to do about a quantizer that is missing."""

Shape = Mapping[str, Sequence[int]] | Sequence[int] | None


class PassError(RuntimeError):
    """A pass does not find what it requires, or breaks what it ensures: a bug of a pass, not bad input."""


@dataclass
class PassResult:
    """What a pass did: what changed, and why each candidate left alone was left alone."""

    name: str
    changed: list[str] = field(default_factory=list)
    left_alone: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able view."""
        return {"pass": self.name, "changed": self.changed, "left_alone": self.left_alone}


@dataclass
class Lowering:
    """One model on its way through the passes.

    `model` is the QDQ file, a copy that passes may change; `shape` replaces its input shape (a list, or a
    dict by input name). `manifest` is what the file says of itself. `tail` is what stays float behind the
    integer part, None where nothing does. `results` are those of the passes that have run.
    """

    model: ModelProto
    numerics: str = EXACT
    shape: Shape = None
    manifest: dict[str, Any] = field(default_factory=dict)
    tail: ModelProto | None = None
    results: list[PassResult] = field(default_factory=list)
    _graph: Graph | None = field(default=None, init=False)
    _written: tuple[ModelProto, dict[str, Any]] | None = field(default=None, init=False)

    @property
    def graph(self) -> Graph:
        """The graph between the two files. Raises PassError before read_qdq."""
        if self._graph is None:
            raise PassError("no graph was read")
        return self._graph

    @graph.setter
    def graph(self, graph: Graph) -> None:
        self._graph = graph

    @property
    def integer(self) -> ModelProto:
        """The integer file. Raises PassError before write_integer."""
        return self._after_writing()[0]

    @property
    def report(self) -> dict[str, Any]:
        """What is proven of it, JSON-able. Raises PassError before write_integer."""
        return self._after_writing()[1]

    @property
    def is_read(self) -> bool:
        """Whether there is a graph."""
        return self._graph is not None

    @property
    def is_written(self) -> bool:
        """Whether there is an integer file."""
        return self._written is not None

    def write(self, integer: ModelProto, report: dict[str, Any]) -> None:
        """Sets the integer file and its report."""
        self._written = integer, report

    def _after_writing(self) -> tuple[ModelProto, dict[str, Any]]:
        if self._written is None:
            raise PassError("no integer file was written")
        return self._written


class Pass(ABC):
    """One step from the QDQ file to the integer file; it changes the `Lowering` in place.

    Called, it runs `requires`, `run` and `ensures`. Both promises raise PassError, and cost no more than one
    look at every node.
    """

    name = ""

    @abstractmethod
    def requires(self, state: Lowering) -> None:
        """Raises PassError where an earlier pass left what this one cannot work on."""

    @abstractmethod
    def run(self, state: Lowering) -> PassResult:
        """Raises the typed errors of aqd_deploy.errors for what must be refused."""

    @abstractmethod
    def ensures(self, state: Lowering) -> None:
        """Raises PassError where this pass left what later ones cannot work on."""

    def __call__(self, state: Lowering) -> PassResult:
        """Runs the pass, held to its promises; the result is also the last of `state.results`."""
        self._hold(self.requires, "finds", state)
        result = self.run(state)
        self._hold(self.ensures, "leaves", state)
        state.results.append(result)
        return result

    def _hold(self, promise: Callable[[Lowering], None], verb: str, state: Lowering) -> None:
        try:
            promise(state)
        except PassError as error:
            before = ", ".join(result.name for result in state.results) or "none"
            raise PassError(
                f"{self.name} {verb} what it must not: {error} (passes before: {before})"
            ) from error


def none_left(graph: Graph, *kinds: type[Operation]) -> None:
    """Raises PassError for a node of one of these kinds."""
    for node in graph.nodes:
        if isinstance(node.op, kinds):
            raise PassError(f"{node.op.name} {node.label} is left")


def all_of(graph: Graph, *kinds: type[Operation]) -> None:
    """Raises PassError for a node of none of these kinds."""
    for node in graph.nodes:
        if not isinstance(node.op, kinds):
            raise PassError(f"{node.op.name} {node.label} is left")


def no_rule(name: str, node: Node, supported: Sequence[type[Operation]]) -> UnsupportedModelError:
    """The error of a pass that has no case for the operation of `node`."""
    return UnsupportedModelError(
        f"node {node.label}: no case of {name} takes the operation {node.op.name}",
        received=f"{node.op.name} of {', '.join(node.inputs) or 'nothing'}",
        valid=", ".join(sorted(kind.__name__ for kind in supported)),
        next_command="aqd-deploy lower FILE -o OUT --dump-passes DIR, and read the last text there",
    )


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
