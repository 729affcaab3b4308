"""The demonstration: checkpoints → QDQ → integer → program → boxes, with a report of what happened on the
way.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aqd_deploy
from aqd_deploy.detection.image_files import image_files
from aqd_deploy.detection.images import describe_preprocessing
from aqd_deploy.errors import AqdError, CheckpointError, MissingExtraError
from aqd_deploy.evaluation.agreement import (
    ImageSet,
    Outputs,
    correlation,
    detections_of,
    differing_integers,
    real_numbers,
    run_all,
)
from aqd_deploy.evaluation.coco import load_annotations
from aqd_deploy.files import check_folder
from aqd_deploy.integer.files import load_onnx, save_onnx
from aqd_deploy.integer.reference import ReferenceRunner
from aqd_deploy.own_files import OwnFiles
from aqd_deploy.passes.proven import FIELDS
from aqd_deploy.reporting.document import make_report
from aqd_deploy.reporting.report import REPORTS, write_report
from aqd_deploy.runtime.program import Program
from aqd_deploy.workflow.detect import Run
from aqd_deploy.workflow.evidence import Subject, evidence, was_busy
from aqd_deploy.workflow.peer_accuracy import int8_accuracy, int8_file
from aqd_deploy.workflow.pictures import FOLDERS as PICTURES
from aqd_deploy.workflow.pictures import boxes_folder, draw_pictures
from aqd_deploy.workflow.results_folder import ResultsFolder

if TYPE_CHECKING:
    from aqd_deploy.qat.models import Detector

ANNOTATIONS = "annotations.json"
REPOSITORY = "the aqd-deploy repository"
DRAWN_IMAGES = 12
BENCH_ROUNDS = 8
INT8 = ".ort-int8.onnx"
PEERS = "peers"
_SUFFIXES = (".qdq.onnx", ".float.onnx", ".int.onnx", ".so", INT8)


def examples_folder() -> Path:
    """`examples/digits` of the source tree this package runs from; AqdError for an install without one."""
    folder = Path(aqd_deploy.__file__).resolve().parents[1] / "examples" / "digits"
    if not folder.is_dir():
        raise AqdError(
            "the shipped checkpoints and images are in the source tree, not in this installation",
            received=str(folder),
            valid=f"a git clone of {REPOSITORY}, or --checkpoints DIR --images DIR",
            next_command="pip install -e '.[torch]' in the clone, then aqd-deploy demo",
        )
    return folder


@dataclass
class _Job:
    """One quantized checkpoint on its way, and what is known of it so far."""

    name: str
    own: OwnFiles
    seconds: dict[str, float] = field(default_factory=dict)

    def file(self, suffix: str) -> Path:
        return self.own.folder / f"{self.name}{suffix}"

    @contextmanager
    def making(self, suffix: str) -> Iterator[Path]:
        """Where to write a file that is then at `file(suffix)`."""
        staged = self.own.staging / f"{self.name}{suffix}"
        yield staged
        self.own.publish(staged, staged.name)

    @contextmanager
    def step(self, name: str, progress: Callable[[str], None]) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - started, 2)
        progress(f"  {name}: {self.seconds[name]:.1f} s")


def demo(
    output: Path,
    checkpoints: Path | None = None,
    images: Path | None = None,
    *,
    threads: int | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Take every quantized checkpoint of a folder to a program, and report; files go to `output`.

    `checkpoints` and `images` default to those of the source tree. A float checkpoint of the same detector
    gives the float row. Returns the report. Raises AqdError where there is nothing to demonstrate.
    """
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("the demo starts from checkpoints, which need torch",
                                next_command="pip install 'aqd-deploy[torch]'") from error  # fmt: skip
    checkpoints = checkpoints or examples_folder() / "checkpoints"
    images = images or examples_folder() / "images"
    quantized, floats = _load_checkpoints(checkpoints)
    image_set = _load_images(images)
    check_folder(output)
    inputs = [*checkpoints.glob("*.pt"), *image_set.files]
    for path, column in itertools.product(quantized, PICTURES):
        # To find out before the work whether it can be filled.
        boxes = boxes_folder(output, path.stem, column)
        with ResultsFolder(boxes, image_set.files[:DRAWN_IMAGES], inputs, []):
            pass
    names = [*REPORTS, *(path.stem + suffix for path in quantized for suffix in _SUFFIXES)]
    with OwnFiles(output, "demo", names, inputs) as own:
        models = []
        for index, (path, model) in enumerate(quantized.items()):
            progress(f"[{index + 1}/{len(quantized)}] {path.stem}")
            twin = _float_twin(model, floats)
            models.append(_take(_Job(path.stem, own), path, model, twin, image_set, threads, progress))
        document = make_report("demo", _about(images, image_set), models)
        document["environment"]["busy"] = was_busy([model["latency"] for model in models])
        for staged in write_report(own.staging, document, output):
            own.publish(staged, staged.name)
    return document


def _load_checkpoints(folder: Path) -> tuple[dict[Path, Detector], list[Detector]]:
    """Quantized detectors by file, and the float ones."""
    from aqd_deploy.qat.checkpoint import load_checkpoint

    paths = sorted(folder.glob("*.pt")) if folder.is_dir() else []
    models = {path: load_checkpoint(path) for path in paths}
    quantized = {path: model for path, model in models.items() if model.config.bits is not None}
    if not quantized:
        raise CheckpointError(
            "there is no quantized checkpoint in the folder",
            received=str(folder),
            valid="*.pt files of aqd-deploy",
        )
    return quantized, [model for model in models.values() if model.config.bits is None]


def _load_images(folder: Path) -> ImageSet:
    found, annotations = image_files([folder]), folder / ANNOTATIONS
    for error in found.refused.values():
        raise error
    return ImageSet.load(found.files, load_annotations(annotations) if annotations.exists() else None)


def _about(folder: Path, images: ImageSet) -> dict[str, Any]:
    annotations, annotated = folder / ANNOTATIONS, images.annotations is not None
    return {
        "folder": str(folder),
        "count": len(images.files),
        "annotated": annotated,
        "format": "coco" if annotated else None,
        "annotations": {"file": str(annotations), "sha256": _sha256(annotations)} if annotated else None,
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _float_twin(model: Detector, floats: list[Detector]) -> Detector | None:
    """The float detector of the same architecture, if one is among the checkpoints."""
    keys = (
        "detector",
        "backbone",
        "width",
        "fpn_channels",
        "head_depth",
        "image_height",
        "image_width",
        "classes",
    )
    for candidate in floats:
        if all(getattr(candidate.config, key) == getattr(model.config, key) for key in keys):
            return candidate
    return None


def _take(
    job: _Job,
    checkpoint: Path,
    model: Detector,
    twin: Detector | None,
    images: ImageSet,
    threads: int | None,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """One checkpoint through every step; the model's entry of the report."""
    from aqd_deploy.compiler import compile_model
    from aqd_deploy.frontends.torch_qdq import export_qdq
    from aqd_deploy.passes.pipeline import lower
    from aqd_deploy.qat.checkpoint import checkpoint_record

    with job.step("export", progress):
        with job.making(".qdq.onnx") as path:
            save_onnx(export_qdq(model, name=job.name), path)
        if twin is not None:
            with job.making(".float.onnx") as path:
                save_onnx(export_qdq(twin, name=f"{job.name}_float"), path)
    with job.step("lower", progress):
        lowered = lower(load_onnx(job.file(".qdq.onnx")))
        with job.making(".int.onnx") as path:
            save_onnx(lowered.model, path)
    with job.step("compile", progress), job.making(".so") as path:
        compile_model(lowered.model, path, threads=threads, source=job.file(".qdq.onnx"))
    with job.step("evaluate", progress):
        accuracy, agreement, program, fake = _evaluate(job, images, twin is not None, threads)
    with job.step("draw", progress):
        pictures = _draw(job, images, program, threads)
    with job.step("bench", progress):
        latency = _bench(job, images, program)
    with job.step("evaluate onnxruntime INT8", progress):
        accuracy |= _evaluate_int8(job, images, program, threads)
    with job.step("evidence", progress):
        qdq = load_onnx(job.file(".qdq.onnx"))
        subject = Subject(qdq, lowered.model, job.file(".so"), program, images, fake)
        sections = evidence(subject, latency)
    return {
        "name": job.name,
        "record": _record(checkpoint_record(checkpoint)),
        "manifest": _manifest(program.manifest),
        "preprocessing": describe_preprocessing(program.manifest),
        "files": _files(job, checkpoint),
        "weights": _weights(job),
        "lowering": _lowering(lowered.report),
        "accuracy": accuracy,
        "agreement": agreement,
        "latency": latency,
        "pictures": pictures,
        "seconds": job.seconds,
        **sections,
    }


def _evaluate(
    job: _Job, images: ImageSet, has_float: bool, threads: int | None
) -> tuple[dict[str, Any], dict[str, Any], Program, Outputs]:
    """Accuracy and agreement of every variant, the loaded program, and the fake-quantized outputs."""
    program = Program.load(job.file(".so"), threads)
    manifest = program.manifest
    name = manifest["preprocessing"]["input"]
    tensors, placements = images.tensors(manifest)
    written = ReferenceRunner(job.file(".qdq.onnx"), threads, as_written=True)
    outputs: dict[str, Outputs] = {
        "fake_quantized": run_all(written.run, name, tensors),
        "integer_reference": run_all(ReferenceRunner(job.file(".int.onnx"), threads).run, name, tensors),
        "program": run_all(program.run, name, tensors),
    }
    if has_float:
        runner = ReferenceRunner(job.file(".float.onnx"), threads)
        outputs = {"float": run_all(runner.run, name, tensors), **outputs}
    accuracy = {
        variant: images.average_precision(manifest, detections_of(each, manifest, placements))
        for variant, each in outputs.items()
    }
    fake = outputs["fake_quantized"]
    agreement: dict[str, Any] = {
        variant: correlation(real_numbers(outputs[variant], manifest), fake)
        for variant in ("float", "integer_reference")
        if variant in outputs
    }
    agreement["program"] = differing_integers(outputs["integer_reference"], outputs["program"])
    return accuracy, agreement, program, fake


def _draw(job: _Job, images: ImageSet, program: Program, threads: int | None) -> list[dict[str, Any]]:
    """What the float network, if there is one, and the program find."""
    runs: dict[str, Run] = {"integer": program.run}
    if job.file(".float.onnx").exists():
        runs = {"float": ReferenceRunner(job.file(".float.onnx"), threads).run, **runs}
    files = images.files[:DRAWN_IMAGES]
    return draw_pictures(job.own.folder, job.name, runs, program.manifest, files)


def _bench(job: _Job, images: ImageSet, program: Program) -> dict[str, Any]:
    import numpy as np

    from aqd_deploy.bench.measure import bench

    tensors, _ = images.tensors(program.manifest)
    return bench(
        job.file(".so"), against=["onnxruntime"], model=job.file(".qdq.onnx"), threads=[program.threads],
        rounds=BENCH_ROUNDS, images=np.concatenate(tensors[:8]), layers=True, keep=job.own.staging / PEERS,
    )  # fmt: skip


def _evaluate_int8(
    job: _Job, images: ImageSet, program: Program, threads: int | None
) -> dict[str, dict[str, float] | None]:
    """The accuracy of the INT8 network that was timed, where onnxruntime could make one; keeps its file."""
    found = int8_file(job.own.staging / PEERS)
    if found is None:
        return {}
    with job.making(INT8) as path:
        found.rename(path)
    return {"onnxruntime_int8": int8_accuracy(job.file(INT8), images, program.manifest, threads)}


def _files(job: _Job, checkpoint: Path) -> dict[str, dict[str, Any]]:
    paths = {
        "checkpoint": checkpoint,
        "float": job.file(".float.onnx"),
        "fake_quantized": job.file(".qdq.onnx"),
        "integer_reference": job.file(".int.onnx"),
        "program": job.file(".so"),
        "onnxruntime_int8": job.file(INT8),
    }
    return {
        variant: {"file": path.name, "bytes": path.stat().st_size, "sha256": _sha256(path)}
        for variant, path in paths.items()
        if path.exists()
    }


def _weights(job: _Job) -> dict[str, Any]:
    from aqd_deploy.reporting.inspection import inspect_file

    return inspect_file(job.file(".so"))["weights"]


def _manifest(manifest: dict[str, Any]) -> dict[str, Any]:
    """What a reader of the report needs of a program's manifest."""
    keys = ("name", "architecture", "bits", "detector", "preprocessing", "lowering")
    target = manifest["program"]["target"]
    return {**{key: manifest[key] for key in keys if key in manifest}, "target": target}


def _lowering(report: dict[str, Any]) -> dict[str, Any]:
    bounds = [entry["error_bound"] for entry in report["skip_adds"]]
    return {
        **{key: report[key] for key in (*FIELDS, "proven_share")},
        "skip_adds": len(bounds),
        "largest_skip_add_error": round(max(bounds, default=0.0), 6),
    }


def _record(text: str) -> Any:
    """How the checkpoint was trained: JSON where it is JSON, else the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text
