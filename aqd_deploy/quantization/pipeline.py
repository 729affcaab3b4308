"""A float network to a quantized one: the steps in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from onnx import ModelProto

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.integer.manifest import read_manifest
from aqd_deploy.passes.canonical.draft import is_standard
from aqd_deploy.passes.canonical.dynamic import dynamic_products
from aqd_deploy.passes.contract import Shape
from aqd_deploy.quantization.adaptive_rounding import round_adaptively
from aqd_deploy.quantization.alone import LayerError, layer_errors
from aqd_deploy.quantization.bias_correction import with_corrected_biases
from aqd_deploy.quantization.calibration import FEW_IMAGES, Calibration
from aqd_deploy.quantization.equalise import equalised
from aqd_deploy.quantization.methods import method_named
from aqd_deploy.quantization.methods.contract import Chosen, Lifted
from aqd_deploy.quantization.methods.minmax import MinMax
from aqd_deploy.quantization.network import Network
from aqd_deploy.quantization.output_error import output_error
from aqd_deploy.quantization.placement import Site
from aqd_deploy.quantization.plan import Plan
from aqd_deploy.quantization.progress import Run
from aqd_deploy.quantization.recipe import Recipe
from aqd_deploy.quantization.scale_channels import UNEVEN_FUNCTIONS, uneven_inputs, with_scaled_inputs
from aqd_deploy.quantization.write_qdq import write_qdq

Codes = dict[Site, np.ndarray]


@dataclass(frozen=True)
class QuantizedModel:
    """A QDQ model, and a JSON-able report: `layers` with bits, scales and errors, `steps` with their effect,
    `stages` in seconds, `warnings`.
    """

    model: ModelProto
    report: dict[str, Any]


def quantize(
    model: ModelProto,
    calibration: Calibration,
    recipe: Recipe | None = None,
    *,
    shape: Shape = None,
    run: Run | None = None,
    described: Mapping[str, Any] | None = None,
) -> QuantizedModel:
    """The QDQ model of a float one, which stays unchanged; the same for the same images and recipe.

    `calibration` has the images, `shape` sets shapes that the file leaves open, `run` hears of the progress.
    `described` are the entries `preprocessing` and `detector` of a file that is silent on its outputs, for
    methods that look at them (`detection.description`).
    Raises the typed errors of aqd_deploy.errors for networks, images and recipes that cannot be used.
    """
    recipe, run = recipe or Recipe(), run or Run()
    if count := dynamic_products(model.graph.node):
        run.warn(f"the weights of {count} layers were rounded when the file was quantized dynamically")
    network = Network.of(model, shape=shape, fold=recipe.steps.fold_batch_norms)
    return quantize_network(network, calibration, recipe, run, described)


def quantize_network(
    network: Network,
    calibration: Calibration,
    recipe: Recipe,
    run: Run,
    described: Mapping[str, Any] | None = None,
) -> QuantizedModel:
    """`quantize` of a network that has been read; layers of it may have quantizers."""
    method = method_named(recipe.method, recipe.parameters)
    job = _Job(Plan.of(network, recipe, described), calibration, run)
    _check_detector(job.plan)
    job.warn()
    job.equalise()
    chosen = method.choose(job.plan, calibration, run)
    job.advise()
    codes = job.round(chosen)
    errors = layer_errors(job.plan, chosen, codes, calibration, run)
    job.correct_biases(chosen, codes, errors)
    written = write_qdq(job.plan.network, chosen, codes, recipe)
    report = {
        "recipe": recipe.document(),
        "images": len(calibration),
        "steps": job.steps,
        "output_error": output_error(job.reference, written, calibration, run),
        "layers": _layers(job.plan, chosen, errors),
        "warnings": run.warnings,
        "stages": {stage: round(seconds, 3) for stage, seconds in run.stages.items()},
        "seconds": round(run.elapsed, 3),
    }
    return QuantizedModel(written, report)


def _check_detector(plan: Plan) -> None:
    """UnsupportedModelError where layers of a detector stay float: its outputs are decoded from integers."""
    left = plan.placement.left_float
    if left and "detector" in read_manifest(plan.network.model):
        raise UnsupportedModelError(
            "the last layers of a detector would stay float",
            received=left[0],
            valid="a network whose operators have integer forms: batch norms, not group norms",
            next_command="training on with a batch norm a level (docs/how-to/checkpoints.md)",
        )


class _Job:
    """One quantization: `plan` is the network as far as it has come, `steps` the rows of the report."""

    def __init__(self, plan: Plan, calibration: Calibration, run: Run) -> None:
        self.plan, self.calibration, self.run = plan, calibration, run
        self.reference = plan
        self.steps: list[dict[str, Any]] = []

    def warn(self) -> None:
        """Of what the result will be worse by."""
        count, network = len(self.calibration), self.plan.network
        if count < FEW_IMAGES:
            self.run.warn(f"few calibration images: {count}; {FEW_IMAGES} or more show the ranges better")
        # Ends at the first one that is a picture.
        if all(_is_plain(feed) for feed in self.calibration.feeds()):
            self.run.warn(
                "every calibration image has one color throughout, so that no range is what it will be"
            )
        for sentence in self.plan.placement.left_float:
            self.run.warn(sentence)
        for site in self.plan.sites:
            if site.is_weight and not network.array(site.tensor).any():
                self.run.warn(f"the weights {site.tensor} are all 0: the layer {site.layers[0]} adds nothing")

    def equalise(self) -> None:
        """Its effect is that on a network quantized with whole ranges, which costs no search."""
        if not self.plan.recipe.steps.equalise:
            return
        before, (network, pairs) = self.plan, equalised(self.plan.network)
        self.plan = replace(before, network=network)
        errors = [self._error_of_ranges(plan) for plan in (before, self.plan)]
        self._note("equalise", pairs, *errors)
        self._scale_channels(errors[-1])

    def _scale_channels(self, error: float) -> None:
        """Of activations, which weights alone do not tell; `error` is that of ranges so far."""
        before = self.plan
        uneven = uneven_inputs(before, self.calibration, self.run)
        if not uneven:
            return
        self.plan = Plan.of(with_scaled_inputs(before, uneven), before.recipe, before.described)
        self._note("scale_channels", len(uneven), error, self._error_of_ranges(self.plan))

    def advise(self) -> None:
        """Warns where a step that was not asked for would help; a file's own quantizers want its weights as
        they are.
        """
        nodes = self.plan.network.model.graph.node
        if self.plan.recipe.steps.equalise or any(is_standard(node, "QuantizeLinear") for node in nodes):
            return
        far = [
            each.unevenness
            for each in uneven_inputs(self.plan, self.calibration, self.run)
            if each.unevenness >= UNEVEN_FUNCTIONS
        ]
        if far:
            self.run.warn(
                f"channels that share a step have very unlike ranges in {len(far)} of "
                f"{len(self.plan.activations)} tensors, the largest up to {max(far):.0f} times the mean one; "
                "--equalise gives the small ones more codes"
            )

    def _error_of_ranges(self, plan: Plan) -> float:
        few = self.calibration.first(FEW_IMAGES)
        chosen = Lifted(MinMax()).choose(plan, few, Run())
        return output_error(self.reference, write_qdq(plan.network, chosen), few, self.run)

    def round(self, chosen: Chosen) -> Codes:
        """The codes of weights that are not rounded to the nearest."""
        iterations = self.plan.recipe.steps.adaptive_rounding
        if not iterations:
            return {}
        codes = round_adaptively(self.plan, chosen, self.calibration, iterations, self.run)
        self._note(
            "adaptive_rounding", len(codes), *self._errors_of(chosen, [(self.plan, {}), (self.plan, codes)])
        )
        return codes

    def correct_biases(self, chosen: Chosen, codes: Codes, errors: Mapping[str, LayerError]) -> None:
        """Of every layer by its own error."""
        if not self.plan.recipe.steps.bias_correction:
            return
        before, layers = self.plan, {layer.output: layer for layer in self.plan.placement.layers}
        network, count = with_corrected_biases(before.network, layers, errors)
        self.plan = replace(before, network=network)
        self._note("bias_correction", count, *self._errors_of(chosen, [(before, codes), (self.plan, codes)]))

    def _errors_of(self, chosen: Chosen, variants: list[tuple[Plan, Codes]]) -> list[float]:
        """Those of the outputs of these variants."""
        return [
            output_error(self.reference, write_qdq(plan.network, chosen, codes), self.calibration, self.run)
            for plan, codes in variants
        ]

    def _note(self, step: str, count: int, before: float, after: float) -> None:
        self.steps.append({"step": step, "changed": count, "error_before": before, "error_after": after})


def _is_plain(feed: Mapping[str, np.ndarray]) -> bool:
    """Whether each channel (axis 1) of every input has several places and one value at all of them."""
    flat = (array.reshape(*array.shape[:2], -1) for array in feed.values())
    return all(each.shape[-1] > 1 and bool((each == each[..., :1]).all()) for each in flat)


def _layers(plan: Plan, chosen: Chosen, errors: Mapping[str, LayerError]) -> list[dict[str, Any]]:
    """A row for each quantized layer. Its scales are the largest of the layer's; the error is its own,
    without that of the layers in front of it.
    """
    weights = {name: site for site in plan.sites if site.is_weight for name in site.layers}
    inputs = {name: site for site in plan.sites if not site.is_weight for name in site.layers}
    rows = []
    for layer in plan.placement.layers:
        row: dict[str, Any] = {"layer": layer.name, "kind": layer.op_type}
        for key, site in (("weight", weights.get(layer.name)), ("input", inputs.get(layer.name))):
            if site is not None:
                row[f"{key}_bits"] = chosen[site].bits
                row[f"{key}_scale"] = float(np.max(chosen[site].scale))
        error = errors[layer.name]
        rows.append({**row, "mean_square_error": error.noise, "signal_to_noise_db": error.decibels})
    return rows
