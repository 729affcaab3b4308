"""What scales of powers of two cost: the same trained network lowered twice, each measured in integers."""

from __future__ import annotations

import json
from pathlib import Path

import arms
import heldout
import numpy as np

from aqd_deploy.detection.decode import Postprocess
from aqd_deploy.detection.images import Placement
from aqd_deploy.detection.results import coco_results
from aqd_deploy.evaluation.coco import evaluate
from aqd_deploy.files import write_text
from aqd_deploy.frontends.torch_qdq import export_qdq
from aqd_deploy.integer.manifest import read_manifest
from aqd_deploy.integer.reference import ReferenceRunner
from aqd_deploy.passes.pipeline import lower
from aqd_deploy.qat.checkpoint import load_checkpoint

COMMAND = "python examples/digits/studies/run.py scales --work DIR"
NUMERICS = ("exact", "power-of-two")
SHIPPED = tuple(
    Path(__file__).resolve().parents[1] / "checkpoints" / f"{name}.pt"
    for name in ("fcos_r18_digits_4bit", "fcos_r18_digits_2bit", "retinanet_r18_digits_4bit")
)


def networks(work: Path) -> list[Path]:
    """The checkpoints that are measured: the shipped AQD networks, and those of `bits` that are trained."""
    trained = [work / "checkpoints" / f"{arm.name}.pt" for arm in arms.bits() if arm.mode == "aqd"]
    return [*SHIPPED, *(path for path in trained if path.exists() and "float" not in path.stem)]


def measure(task: tuple[Path, Path, dict[str, np.ndarray]]) -> None:
    """Writes `WORK/scales/NAME.json` of a checkpoint where it is not there: AP of both integer files on the
    held-out arrays.
    """
    checkpoint, work, held = task
    path = work / "scales" / f"{checkpoint.stem}.json"
    if path.exists():
        return
    detector = load_checkpoint(checkpoint)
    model, config = export_qdq(detector), detector.config
    record = {"name": checkpoint.stem, "detector": config.detector, "bits": config.bits,
              "heldout_images": len(held["images"]),
              "command": COMMAND, "numerics": {}}  # fmt: skip
    for numerics in NUMERICS:
        precision = precision_of_integers(lower(model, numerics=numerics).model, held)
        record["numerics"][numerics] = {
            name: None if value != value else round(value, 4) for name, value in precision.items()
        }
    path.parent.mkdir(exist_ok=True)
    write_text(path, json.dumps(record, indent=1) + "\n")
    values = ", ".join(f"{mode} {100 * each['AP']:.1f}" for mode, each in record["numerics"].items())
    print(checkpoint.stem, values, flush=True)


def precision_of_integers(integer, held: dict[str, np.ndarray]) -> dict[str, float]:
    """Average precisions of an integer file in onnxruntime, an image at a time."""
    side = held["images"].shape[-1]
    runner, decode = ReferenceRunner(integer, threads=1), Postprocess.from_manifest(read_manifest(integer))
    placement = Placement(side, side, 0, 0, side, side)
    results = []
    for index, image in enumerate(held["images"]):
        results += coco_results(index, decode(runner.run({"image": image[None]}), placement))
    return evaluate(heldout.annotations(held), results)
