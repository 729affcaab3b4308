"""The one list of passes that takes a QDQ file to integer ONNX."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnx import ModelProto

from aqd_deploy.detection.interface import check_interface
from aqd_deploy.errors import AqdError
from aqd_deploy.passes.check_model import CheckModel
from aqd_deploy.passes.commute_quantizers import CommuteQuantizers
from aqd_deploy.passes.fold_quantizers import FoldQuantizers
from aqd_deploy.passes.geometry import pixel_strides
from aqd_deploy.passes.graph import Graph, Pass, PassResult
from aqd_deploy.passes.integer_convolutions import IntegerConvolutions
from aqd_deploy.passes.move_scales import MoveScales
from aqd_deploy.passes.numerics import check_mode
from aqd_deploy.passes.read_qdq import ReadQdq
from aqd_deploy.passes.report import build_report, summary
from aqd_deploy.passes.solve_requantize import SolveRequantize
from aqd_deploy.passes.verify_integer import VerifyInteger
from aqd_deploy.passes.write_integer import WriteInteger

Shape = Mapping[str, Sequence[int]] | Sequence[int] | None


@dataclass(frozen=True)
class LoweringResult:
    """The integer model and a JSON-able report; `report["passes"]` is what `--explain` prints."""

    model: ModelProto
    report: dict[str, Any]


def graph_passes(numerics: str) -> list[Pass]:
    """The passes between reading and writing, in order."""
    return [
        FoldQuantizers(),
        IntegerConvolutions(),
        CommuteQuantizers(),
        MoveScales(numerics),
        SolveRequantize(numerics),
    ]


def lower(
    model: ModelProto,
    *,
    numerics: str = "exact",
    shape: Shape = None,
    allow_float_islands: bool = False,
    on_pass: Callable[[PassResult], None] | None = None,
) -> LoweringResult:
    """Integer ONNX of a QDQ model, which stays unchanged.

    `numerics` is exact, paper or power-of-two; `shape` replaces the input shape (a list, or a dict by input
    name), also in the manifest; `on_pass` hears of every pass as it ends. Raises the typed errors of
    aqd_deploy.errors for what can't be lowered, and for a manifest that tells of another input or outputs.
    """
    check_mode(numerics)
    if allow_float_islands:
        raise AqdError(
            "float islands aren't supported yet", valid="networks that are quantized from input to heads"
        )
    results: list[PassResult] = []

    def note(result: PassResult) -> None:
        results.append(result)
        if on_pass is not None:
            on_pass(result)

    model = copy.deepcopy(model)
    note(CheckModel(shape).run(model))
    graph, result = ReadQdq().run(model)
    note(result)
    _check_interface(graph)
    for step in graph_passes(numerics):
        note(step.run(graph))
        step.check(graph)
    return _finish(graph, numerics, note, results)


def _check_interface(graph: Graph) -> None:
    inputs, outputs = (
        {name: graph.shapes[name] for name in names} for names in (graph.inputs, graph.outputs)
    )
    detects = graph.manifest.get("detector") is not None
    check_interface(graph.manifest, inputs, outputs, pixel_strides(graph) if detects else None)


def _finish(
    graph: Graph, numerics: str, note: Callable[[PassResult], None], results: list[PassResult]
) -> LoweringResult:
    report = build_report(graph, numerics)
    manifest = {key: value for key, value in graph.manifest.items() if key != "output_errors"}
    manifest["lowering"] = summary(report)
    model = WriteInteger().run(graph, manifest)
    note(PassResult(WriteInteger.name, [f"{len(model.graph.node)} nodes"]))
    note(VerifyInteger().run(model))
    report["passes"] = [result.as_dict() for result in results]
    return LoweringResult(model, report)
