"""What `eval --layers` adds: agreement layer by layer, numerics modes, times and cost, of a few images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aqd_deploy.bench.measure import bench
from aqd_deploy.devices import LOCAL
from aqd_deploy.errors import AqdError, ImageError
from aqd_deploy.evaluation.agreement import ImageSet, run_all
from aqd_deploy.integer.files import load_onnx
from aqd_deploy.integer.reference import ReferenceRunner
from aqd_deploy.runtime.program import Program
from aqd_deploy.workflow.evaluation.stages import QUANTIZED, Stage
from aqd_deploy.workflow.evidence import Subject, evidence

IMAGES = 12
ROUNDS = 8


def check_layers(stages: Sequence[Stage]) -> None:
    """AqdError where the stages are not those that are compared layer by layer: QDQ file, integer file and
    program of one network, on this machine.
    """
    here = {stage.name for stage in stages if stage.device == LOCAL and stage.path.suffix in (".onnx", ".so")}
    missing = [name for name in QUANTIZED if name not in here]
    if missing:
        raise AqdError(
            "--layers compares a QDQ file, its integer file and its program on this machine",
            received=", ".join(f"{stage.name} {stage.path}" for stage in stages),
            valid="all three: " + ", ".join(QUANTIZED),
            next_command="the same command with all three files, or without --layers",
        )  # fmt: skip


def layer_sections(
    stages: Sequence[Stage], files: Sequence[Path], annotations: Mapping[str, Any]
) -> dict[str, Any]:
    """The sections of the report that `evidence` gives, and `latency`, of the stages that `check_layers`
    passed, on the first `IMAGES` of the image files.
    """
    qdq, integer, compiled = (next(each for each in stages if each.name == name) for name in QUANTIZED)
    program = Program.load(compiled.path, compiled.threads)
    images = _image_set(list(files[:IMAGES]), annotations)
    tensors, _ = images.tensors(program.manifest)
    written = ReferenceRunner(qdq.path, qdq.threads, as_written=True)
    fake = run_all(written.run, program.manifest["preprocessing"]["input"], tensors)
    latency = bench(
        compiled.path, against=[], model=qdq.path, threads=[program.threads], rounds=ROUNDS,
        images=np.concatenate(tensors[:8]), layers=True,
    )  # fmt: skip
    subject = Subject(load_onnx(qdq.path), load_onnx(integer.path), compiled.path, program, images, fake)
    return {"latency": latency, **evidence(subject, latency)}


def _image_set(files: list[Path], annotations: Mapping[str, Any]) -> ImageSet:
    """Without annotations where those do not tell the files apart, of which names are all that is known."""
    try:
        return ImageSet.load(files, dict(annotations))
    except ImageError:
        return ImageSet.load(files)
