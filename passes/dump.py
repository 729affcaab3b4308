"""What each pass left, as files to read: `01-check_model.txt`, `02-read_qdq.txt`, …, and an ONNX file where
that is a model.

A text has what the pass did, then a line a node: its tensor, its operation with all that is known of it, its
inputs. Where passes disagree, two neighbouring texts show the difference (`diff 04-*.txt 05-*.txt`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from aqd_deploy.errors import AqdError
from aqd_deploy.integer.files import onnx_bytes
from aqd_deploy.integer.fixedpoint import RequantizeSolution
from aqd_deploy.integer.rational import ChannelForm
from aqd_deploy.integer.staircase import Quantizer, Staircases
from aqd_deploy.own_files import OwnFiles
from aqd_deploy.passes.contract import Lowering, PassResult
from aqd_deploy.passes.graph import Graph, Node
from aqd_deploy.passes.operators import attributes_of
from aqd_deploy.passes.pipeline import PASSES, PHASES
from aqd_deploy.passes.streams import StreamConstants

STEMS = tuple(f"{number:02}-{each.name}" for number, each in enumerate(PASSES, 1))
NAMES = tuple(f"{stem}.{kind}" for stem in STEMS for kind in ("txt", "onnx"))


def check_dump(folder: Path, output: Path) -> None:
    """Raises AqdError where the integer file `output` and what is written to `folder` would be in each
    other's place.
    """
    place, file = folder.resolve(), output.resolve()
    if file in (place, *place.parents):
        raise AqdError(
            "the output is the folder of the dump, or one above it",
            received=str(output), valid="the name of a file",
        )  # fmt: skip
    # As it is named, and where it leads.
    for each in (output.parent.resolve() / output.name, file):
        if each.parent == place and each.name in NAMES:
            raise AqdError(
                "the output is also a file of the dump", received=str(output), valid="another name"
            )


@contextmanager
def dumping(folder: Path, inputs: Iterable[Path] = ()) -> Iterator[Callable[[Lowering], None]]:
    """What `lower` takes as `on_state`: writes the state after each pass to `folder`, also where a later pass
    fails.

    Texts and models of an earlier run are replaced. Raises AqdError, before anything is written, where a file
    of that name is not ours or is one of `inputs`.
    """
    with OwnFiles(folder, "lower", NAMES, inputs) as files:
        files.remove(files.earlier())
        last: ModelProto | None = None

        def note(state: Lowering) -> None:
            nonlocal last
            stem = STEMS[len(state.results) - 1]
            with files.writing():
                (files.staging / f"{stem}.txt").write_text(state_text(state), encoding="utf-8")
            files.publish(files.staging / f"{stem}.txt", f"{stem}.txt")
            model = _model_of(state)
            if model is not None and model is not last:
                data = onnx_bytes(model, folder / f"{stem}.onnx")
                with files.writing():
                    (files.staging / f"{stem}.onnx").write_bytes(data)
                files.publish(files.staging / f"{stem}.onnx", f"{stem}.onnx")
                last = model

        yield note


def state_text(state: Lowering) -> str:
    """The last pass, what it did, and what it left; a line for each node."""
    result, model = state.results[-1], _model_of(state)
    lines = _model_lines(model) if model is not None else _graph_lines(state.graph)
    return "\n".join([*_result_lines(result), "", *lines, ""])


def _model_of(state: Lowering) -> ModelProto | None:
    """The model that the state is, None where it is a graph."""
    if state.is_written:
        return state.integer
    return None if state.is_read else state.model


def _result_lines(result: PassResult) -> list[str]:
    phase = next((name for name, passes in PHASES.items() if result.name in {p.name for p in passes}), "")
    lines = [f"pass {result.name} (phase: {phase})"]
    for title, told in (("changed", result.changed), ("left alone", result.left_alone)):
        if told:
            lines += [f"{title}:", *(f"  {line}" for line in told)]
    return lines


def _graph_lines(graph: Graph) -> list[str]:
    head = [f"graph {graph.name}"]
    head += [f"input {name} {_shape(graph, name)}" for name in graph.inputs]
    head += [f"quantized {name} {told(each.values)}" for name, each in graph.quantized.items()]
    head += [f"output {name} {_shape(graph, name)}" for name in graph.outputs]
    return [*head, *(_node_line(graph, node) for node in graph.nodes)]


def _shape(graph: Graph, name: str) -> str:
    interval = graph.ranges.get(name)
    return f"{list(graph.shapes[name])}" + (f" in {list(interval.bounds)}" if interval is not None else "")


def _node_line(graph: Graph, node: Node) -> str:
    known = "".join(f"; {f.name} {told(getattr(node.op, f.name))}" for f in fields(node.op))
    about = f"  # {node.source}" if node.source not in ("", node.output) else ""
    call = f"{node.op.name}({', '.join(node.inputs)})"
    return f"{node.output} {_shape(graph, node.output)} = {call}{known}{about}"


def _model_lines(model: ModelProto) -> list[str]:
    lines = [f"model {model.graph.name}"]
    for title, values in (("input", model.graph.input), ("output", model.graph.output)):
        for value in values:
            shape = [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
            lines.append(f"{title} {value.name} {shape}")
    for node in model.graph.node:
        known = "".join(f"; {key} {told(value)}" for key, value in attributes_of(node).items())
        name = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        about = f"  # {node.name}" if node.name not in ("", *node.output) else ""
        lines.append(f"{', '.join(node.output)} = {name}({', '.join(node.input)}){known}{about}")
    return lines


def told(value: Any) -> str:
    """A value in few words: of many numbers how many there are, and from where to where they go."""
    if isinstance(value, Fraction):
        return f"{value.numerator / value.denominator:.6g}"
    if isinstance(value, ChannelForm):
        return f"α {told(value.alpha())}, β {told(value.beta())}"
    if isinstance(value, Quantizer):
        zero = f", zero point {value.zero_point}" if value.zero_point else ""
        return f"step {told(value.step)}, {value.lo} to {value.hi}{zero}"
    if isinstance(value, Staircases):
        return f"{told(value.quantizer)} over {int(value.lo.min())} to {int(value.hi.max())}"
    if isinstance(value, RequantizeSolution):
        return f"{told(value.constants)}, {sum(value.proven)} of {len(value.proven)} channels proven"
    if isinstance(value, StreamConstants):
        return told(value.constants)
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)} from {value.min():.6g} to {value.max():.6g}"
    if isinstance(value, str | int | float):
        return str(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {told(each)}" for key, each in value.items())
    if isinstance(value, Sequence):
        return _sequence(value)
    if is_dataclass(value):
        return ", ".join(f"{f.name} {told(getattr(value, f.name))}" for f in fields(value))
    return type(value).__name__


def _sequence(values: Sequence[Any]) -> str:
    if all(isinstance(each, int | float | str) for each in values) and len(values) <= 8:
        return f"[{', '.join(map(told, values))}]"
    if len(values) == 1:
        return f"[{told(values[0])}]"
    return f"[{len(values)}: {told(values[0])}; …; {told(values[-1])}]" if values else "[]"
