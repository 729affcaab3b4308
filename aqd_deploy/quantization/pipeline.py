"""A float network to a quantized one: the steps in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto

from aqd_deploy.passes.contract import Shape
from aqd_deploy.quantization.calibration import FEW_IMAGES, Calibration
from aqd_deploy.quantization.methods import method_named
from aqd_deploy.quantization.methods.contract import Chosen
from aqd_deploy.quantization.network import Network
from aqd_deploy.quantization.placement import Role
from aqd_deploy.quantization.plan import Plan
from aqd_deploy.quantization.progress import Run
from aqd_deploy.quantization.recipe import Recipe
from aqd_deploy.quantization.write_qdq import write_qdq


@dataclass(frozen=True)
class QuantizedModel:
    """A QDQ model, and a JSON-able report: `layers` with bits, scales and errors, `steps`, `warnings`."""

    model: ModelProto
    report: dict[str, Any]


def quantize(
    model: ModelProto,
    calibration: Calibration,
    recipe: Recipe | None = None,
    *,
    shape: Shape = None,
    run: Run | None = None,
) -> QuantizedModel:
    """The QDQ model of a float one, which stays unchanged; the same for the same images and recipe.

    `calibration` has the images, `shape` sets shapes that the file leaves open, `run` hears of the progress.
    Raises the typed errors of aqd_deploy.errors for networks, images and recipes that cannot be used.
    """
    recipe, run = recipe or Recipe(), run or Run()
    method = method_named(recipe.method, recipe.parameters)
    network = Network.of(model, shape=shape, fold=recipe.steps.fold_batch_norms)
    plan = Plan.of(network, recipe)
    chosen = method.choose(plan, calibration, run)
    written = write_qdq(plan.network, chosen, recipe=recipe)
    return QuantizedModel(written, report_of(plan, chosen, calibration, run))


def report_of(plan: Plan, chosen: Chosen, calibration: Calibration, run: Run) -> dict[str, Any]:
    """The report of `QuantizedModel`; what is worth a warning is told to `run`, too."""
    if len(calibration) < FEW_IMAGES:
        run.warn(
            f"{len(calibration)} calibration images are few: {FEW_IMAGES} or more show the ranges better"
        )
    for sentence in plan.placement.left_float:
        run.warn(sentence)
    return {
        "recipe": plan.recipe.document(),
        "images": len(calibration),
        "layers": _layers(plan, chosen),
        "warnings": run.warnings,
        "seconds": round(run.elapsed, 3),
    }


def _layers(plan: Plan, chosen: Chosen) -> list[dict[str, Any]]:
    """A row for each quantized layer."""
    weights = {name: site for site in plan.sites if site.is_weight for name in site.layers}
    inputs = {
        name: site
        for role in (Role.IMAGE, Role.OPERAND, Role.LAYER_INPUT)
        for site in plan.sites
        if site.role is role
        for name in site.layers
    }
    rows = []
    for layer in plan.placement.layers:
        row: dict[str, Any] = {"layer": layer.name, "kind": layer.op_type}
        for key, site in (("weight", weights.get(layer.name)), ("input", inputs.get(layer.name))):
            if site is None:
                continue
            parameters = chosen[site]
            row[f"{key}_bits"] = parameters.bits
            row[f"{key}_scale"] = float(np.max(parameters.scale))
        rows.append(row)
    return rows
