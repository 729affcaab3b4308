"""What scales of powers of two cost: the same trained network lowered twice, each measured in integers."""

from __future__ import annotations

import json
import time
from pathlib import Path

import heldout
import numpy as np
from arms import Arm

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

NUMERICS = ("exact", "power-of-two")


def measure(task: tuple[Arm, Path, dict[str, np.ndarray]]) -> None:
    """Writes `WORK/scales/NAME.json` of a trained arm where it is not there: AP of both integer files on the
    held-out arrays.
    """
    arm, work, held = task
    path = work / "scales" / f"{arm.name}.json"
    if path.exists():
        return
    path.parent.mkdir(exist_ok=True)
    model = export_qdq(load_checkpoint(work / "checkpoints" / f"{arm.name}.pt"))
    record = {"name": arm.name, "detector": arm.detector, "bits": arm.bits, "mode": arm.mode,
              "seed": arm.seed, "heldout_images": len(held["images"]), "numerics": {}}  # fmt: skip
    for numerics in NUMERICS:
        began = time.monotonic()
        integer = lower(model, numerics=numerics).model
        precision = precision_of_integers(integer, held)
        record["numerics"][numerics] = {
            **{name: None if value != value else round(value, 4) for name, value in precision.items()},
            "seconds": round(time.monotonic() - began, 1),
        }
    write_text(path, json.dumps(record, indent=1) + "\n")
    values = ", ".join(f"{mode} {100 * each['AP']:.1f}" for mode, each in record["numerics"].items())
    print(arm.name, values, flush=True)


def precision_of_integers(integer, held: dict[str, np.ndarray]) -> dict[str, float]:
    """Average precisions of an integer file in onnxruntime, an image at a time."""
    side = held["images"].shape[-1]
    runner, decode = ReferenceRunner(integer, threads=1), Postprocess.from_manifest(read_manifest(integer))
    placement = Placement(side, side, 0, 0, side, side)
    results = []
    for index, image in enumerate(held["images"]):
        results += coco_results(index, decode(runner.run({"image": image[None]}), placement))
    return evaluate(heldout.annotations(held), results)
