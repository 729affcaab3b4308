"""What a report says of one network beyond its accuracy: agreement layer by layer, the numerics modes side by
side, times of the steps, and cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from aqd_deploy.bench.cost import cost_of
from aqd_deploy.bench.memory import program_memory
from aqd_deploy.bench.steps import step_times
from aqd_deploy.evaluation.agreement import ImageSet, Outputs, detections_of
from aqd_deploy.evaluation.layer_agreement import LayerAgreement, LayerRow, layer_agreement
from aqd_deploy.evaluation.lowered import Lowered
from aqd_deploy.evaluation.numerics import compare_numerics
from aqd_deploy.integer.graph import Graph
from aqd_deploy.integer.operations.convolution import Convolution
from aqd_deploy.quantization.compare import compare
from aqd_deploy.runtime.program import Program

LAYER_IMAGES = 2
"""Images that are compared layer by layer: in float64 one takes as long as dozens of the program's."""
STEP_IMAGES = 12


@dataclass(frozen=True)
class Subject:
    """A network in its files: the QDQ and the integer model, the program's file and the program loaded, the
    images, and the fake-quantized network's outputs for them. `network` is the float model that the QDQ model
    was made of by `quantize`, None where it was trained as it is.
    """

    qdq: ModelProto
    integer: ModelProto
    file: Path
    program: Program
    images: ImageSet
    fake: Outputs
    network: ModelProto | None = None


def evidence(subject: Subject, latency: Mapping[str, Any]) -> dict[str, Any]:
    """The sections `layers`, `skip_adds`, `layer_agreement`, `numerics`, `steps` and `cost` of the report.

    `latency` is the document of `bench` with layers. Raises ModelFileError where the integer model is not
    what lowering makes of the QDQ model.
    """
    program, images = subject.program, subject.images
    manifest = program.manifest
    lowered = Lowered.of(subject.qdq, manifest["lowering"]["numerics"], subject.integer)
    tensors, placements = images.tensors(manifest)
    feeds = [{manifest["preprocessing"]["input"]: tensor} for tensor in tensors]
    layers = layer_agreement(lowered, feeds[:LAYER_IMAGES], program.intermediates)

    def judge(outputs: Outputs, of_mode: dict[str, Any]) -> dict[str, float] | None:
        return images.average_precision(of_mode, detections_of(outputs, of_mode, placements))

    rows = compare_numerics(
        subject.qdq, feeds, subject.fake, judge, code_images=LAYER_IMAGES, threads=program.threads,
        known={manifest["lowering"]["numerics"]: lowered},
    )  # fmt: skip
    noise = {} if subject.network is None else quantization_noise(subject.qdq, subject.network, feeds)
    told = with_kernels(layers, lowered.graph, manifest["program"]["layers"], latency)
    return {
        **layers.told(),
        "layers": [{**row, "quantization": noise.get(row["name"])} for row in told],
        "numerics": {mode: row.told() for mode, row in rows.items()},
        "steps": step_times(program.run, manifest, images.images[:STEP_IMAGES]).told(),
        "cost": _cost(subject, lowered.graph),
    }


def quantization_noise(
    qdq: ModelProto, network: ModelProto, feeds: Sequence[Mapping[str, np.ndarray]]
) -> dict[str, dict[str, float | None]]:
    """What quantizing cost each layer on the first images, by the tensor of the QDQ file: signal-to-noise of
    the fake-quantized layer against the float one, in dB, `alone` and `accumulated` (`quantization.compare`).
    """
    document = compare(qdq, network, feeds[:LAYER_IMAGES], integers=False)
    return {
        entry["output"]: {key: entry[key]["snr_db"] for key in ("alone", "accumulated")}
        for entry in document["layers"]
    }


def was_busy(latencies: Sequence[Mapping[str, Any]]) -> bool | None:
    """Whether the machine was busy in one of the measurements (documents of `bench`); None where none
    tells.
    """
    told = [each.get("environment", {}).get("busy") for each in latencies]
    known = [each for each in told if each is not None]
    return any(known) if known else None


def _cost(subject: Subject, graph: Graph) -> dict[str, Any]:
    section = subject.program.manifest["program"]
    return cost_of(
        graph,
        stored=section["weights"]["by_bits"],
        file_bytes=subject.file.stat().st_size,
        peak_mb=program_memory(subject.file, subject.program.threads)["peak_mb"],
    ).told()


def with_kernels(
    agreement: LayerAgreement,
    graph: Graph,
    layers: Sequence[Mapping[str, Any]],
    latency: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """The rows with the kernel call that computes each: `call` its name in the program's manifest, `kernel`,
    `ms` of that call as measured with the first number of threads, and `shared_by`, how many rows the call
    computes (the levels of a head are one). All None where no call is found.
    """
    measured = (latency.get("measured") or [{}])[0].get("layers") or []
    found = {row.name: _call_of(row, graph, layers) for row in agreement.layers if row.macs}
    calls = [index for index in found.values() if index is not None]
    rows = []
    for row in agreement.layers:
        index = found.get(row.name)
        told: dict[str, Any] = dict.fromkeys(("call", "kernel", "ms", "shared_by"))
        if index is not None:
            told = {
                "call": layers[index]["name"],
                "kernel": layers[index]["kernel"],
                "ms": measured[index]["ms"] if index < len(measured) else None,
                "shared_by": calls.count(index),
            }
        rows.append({**row.told(), **told})
    return rows


def _call_of(row: LayerRow, graph: Graph, layers: Sequence[Mapping[str, Any]]) -> int | None:
    """The call that writes the first tensor behind the row's accumulators that any call writes."""
    written: dict[str, int] = {}
    for index, layer in enumerate(layers):
        for parts in layer.get("results", []):
            for part in parts:
                written[part["tensor"].partition(":")[0]] = index
    waiting, seen = [row.accumulator], set()
    while waiting:
        name = waiting.pop(0)
        if name in written:
            return written[name]
        seen.add(name)
        waiting += [
            node.output
            for node in graph.nodes
            if name in node.inputs and node.output not in seen and not isinstance(node.entry, Convolution)
        ]
    return None
