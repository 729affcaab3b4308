"""A QDQ file and the integer file that lowering makes of it, and which tensors of the two are the same."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto

from aqd_deploy.errors import ModelFileError
from aqd_deploy.integer.graph import Graph
from aqd_deploy.integer.manifest import read_manifest
from aqd_deploy.integer.reader import read_graph
from aqd_deploy.passes.canonicalise import Canonicalise
from aqd_deploy.passes.contract import Lowering
from aqd_deploy.passes.graph import Meaning
from aqd_deploy.passes.pipeline import lower
from aqd_deploy.runtime.reals import quantized


@dataclass(frozen=True, eq=False)
class Stands:
    """An integer tensor and the tensor of the canonical file that it stands for: of codes the codes, else
    reals, which are η·scale + offset, float64 [C] each (one number where the channels are not told).
    """

    tensor: str
    source: str
    is_codes: bool
    scale: np.ndarray
    offset: np.ndarray

    def reals(self, integers: np.ndarray) -> np.ndarray:
        """What integers [1, C, H, W] stand for."""
        return integers * _along(self.scale) + _along(self.offset)

    def integers(self, reals: np.ndarray) -> np.ndarray:
        """The unrounded η of reals; of a channel that is constant, 0."""
        scale = _along(np.where(self.scale == 0, 1.0, self.scale))
        return np.where(_along(self.scale) == 0, 0.0, (reals - _along(self.offset)) / scale)


@dataclass(frozen=True, eq=False)
class Lowered:
    """`canonical` is the QDQ file in the form that the passes read, `integer` what they make of it, `graph`
    that as read; `report` is of lowering. `stands` are the tensors that can be compared, by the integer one.
    """

    canonical: ModelProto
    integer: ModelProto
    graph: Graph
    report: dict[str, Any]
    stands: Mapping[str, Stands]

    @classmethod
    def of(cls, qdq: ModelProto, numerics: str = "exact", integer: ModelProto | None = None) -> Lowered:
        """Lowers the file. Raises what `lower` raises, and ModelFileError where `integer` is given and is not
        what comes out.
        """
        canonical: list[ModelProto] = []
        states: list[Lowering] = []

        def on_state(state: Lowering) -> None:
            if state.results[-1].name == Canonicalise.name:
                canonical.append(copy.deepcopy(state.model))
            states[:] = [state]

        result = lower(qdq, numerics=numerics, on_state=on_state)
        if integer is not None and not _same(integer, result.model):
            raise ModelFileError(
                "the integer file is not what lowering makes of this QDQ file",
                valid="the two files of one network, of this version",
                next_command="aqd-deploy lower MODEL.qdq.onnx -o MODEL.int.onnx",
            )
        graph = read_graph(result.model)
        stands = _stands(canonical[0], graph, states[0].graph.meanings)
        return cls(canonical[0], result.model, graph, result.report, stands)

    def codes(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Inputs as the integer file takes them: floats by the manifest's scales, others as they are."""
        entries = read_manifest(self.integer).get("inputs", {})
        return {
            name: quantized(name, array, entries[name], entries[name]["dtype"])
            if name in entries and array.dtype.kind == "f"
            else array
            for name, array in feeds.items()
        }


def _same(first: ModelProto, second: ModelProto) -> bool:
    return bool(first.graph == second.graph)


def _stands(canonical: ModelProto, graph: Graph, meanings: Mapping[str, Meaning]) -> dict[str, Stands]:
    """Codes go by their names, which lowering keeps where it keeps the quantizer; reals by their scales."""
    codes = {
        name
        for node in canonical.graph.node
        if node.op_type in ("QuantizeLinear", "Clip")
        for name in node.output
    }
    made = {name for node in canonical.graph.node for name in node.output}
    found: dict[str, Stands] = {}
    for node in graph.nodes:
        name, meaning = node.output, meanings.get(node.output)
        is_codes = graph.types[name].dtype != "int32" and name in codes
        if meaning is not None and (is_codes or meaning.real in made):
            forms = [form.rationalised() for form in meaning.forms]
            scale = np.array([float(form.a) for form in forms])
            offset = np.array([float(form.b0) for form in forms])
            found[name] = Stands(name, name if is_codes else meaning.real, is_codes, scale, offset)
        elif is_codes:
            found[name] = Stands(name, name, True, np.ones(1), np.zeros(1))
    return found


def _along(values: np.ndarray) -> np.ndarray:
    return values.reshape(1, -1, 1, 1)
