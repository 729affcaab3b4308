"""The quantizers that a file still lacks in which some layers are quantized; those that it has stay."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from onnx import ModelProto, NodeProto

from aqd_deploy.errors import RecipeError, UnsupportedModelError
from aqd_deploy.integer.manifest import MANIFEST_KEY, read_manifest
from aqd_deploy.passes.canonical.draft import Draft, is_standard
from aqd_deploy.passes.contract import Shape
from aqd_deploy.quantization.calibration import Calibration
from aqd_deploy.quantization.network import Network, canonical_file
from aqd_deploy.quantization.pipeline import QuantizedModel, quantize_network
from aqd_deploy.quantization.placement import Placement, missing
from aqd_deploy.quantization.progress import Run
from aqd_deploy.quantization.recipe import Recipe


def complete(
    model: ModelProto,
    calibration: Calibration,
    recipe: Recipe | None = None,
    *,
    shape: Shape = None,
    run: Run | None = None,
    described: Mapping[str, Any] | None = None,
) -> QuantizedModel:
    """The QDQ model of one that is quantized in part, with a quantizer wherever `lower` needs one more.

    Ranges are those of the partly quantized network. No step changes its weights, which the quantizers that
    are there were made for. `described` as in `quantize`. Raises UnsupportedModelError where nothing is
    missing, and what `quantize` raises.
    """
    recipe, run = recipe or Recipe(), run or Run()
    _check_steps(recipe)
    network = Network(_with_shared_quantizers(canonical_file(model, shape), recipe))
    network.check_finite()
    sites = missing(network.model, recipe.is_excluded).sites
    if not sites:
        raise UnsupportedModelError(
            "no quantizer is missing in this file",
            received=f"{len(model.graph.node)} nodes",
            valid="a file in which some layers are quantized and others float",
            next_command="aqd-deploy quantize FLOAT.onnx --calibration DIR -o m.qdq.onnx",
        )
    result = quantize_network(network, calibration, recipe, run, described)
    if any(site.is_weight for site in sites):
        _forget_odd_weights(result.model)
    new = [row for row in result.report["layers"] if {"weight_bits", "input_bits"} & row.keys()]
    return QuantizedModel(result.model, {**result.report, "layers": new})


def _check_steps(recipe: Recipe) -> None:
    """RecipeError for steps that change weights."""
    steps = recipe.steps
    asked = {"equalise": steps.equalise, "bias_correction": steps.bias_correction,
             "adaptive_rounding": steps.adaptive_rounding}  # fmt: skip
    for name, value in asked.items():
        if value:
            raise RecipeError(
                f"{name.replace('_', ' ')} changes weights, for which the file has quantizers",
                valid="a recipe without steps for --complete",
                next_command="the same command without it, or quantize the float network as a whole",
            )


def _with_shared_quantizers(model: ModelProto, recipe: Recipe) -> ModelProto:
    """Where one reader of a tensor has a quantizer and another lacks one, both read the same codes.

    x ─┬─ Q ── DQ ── Conv        x ── Q ── DQ ─┬─ Conv
       └─ Conv                                └─ Conv
    """
    model = copy.deepcopy(model)
    draft = Draft(model)
    behind = _dequantized(draft)
    placement: Placement = missing(model, recipe.is_excluded)
    moved = {
        (reader.node, reader.index): behind[site.tensor]
        for site in placement.sites
        if not site.is_weight and site.tensor in behind
        for reader in site.readers
    }
    for node in draft.nodes:
        for index in range(len(node.input)):
            node.input[index] = moved.get((node.output[0], index), node.input[index])
    draft.nodes = _in_order(draft)
    return draft.write()


def _dequantized(draft: Draft) -> dict[str, str]:
    """Real tensor to what a QuantizeLinear and a DequantizeLinear make of it, past the Clip between them."""
    readers = draft.readers()
    found: dict[str, str] = {}
    for node in draft.nodes:
        if not is_standard(node, "QuantizeLinear"):
            continue
        codes = node.output[0]
        following = readers.get(codes, [])
        while len(following) == 1 and is_standard(following[0], "Clip"):
            codes = following[0].output[0]
            following = readers.get(codes, [])
        real = [each.output[0] for each in following if is_standard(each, "DequantizeLinear")]
        if real:
            found.setdefault(node.input[0], real[0])
    return found


def _in_order(draft: Draft) -> list[NodeProto]:
    """The nodes in topological order: one may stand in front of the quantizer that it has come to read."""
    known = {*draft.inputs, *draft.initializers, ""}
    left, ordered = list(draft.nodes), []
    while left:
        waiting = []
        for node in left:
            if known.issuperset(node.input):
                known.update(node.output)
                ordered.append(node)
            else:
                waiting.append(node)
        left = waiting
    return ordered


def _forget_odd_weights(model: ModelProto) -> None:
    """The manifest's `bits` say that every weight is an odd integer (Eq. 3), which the new ones are not."""
    manifest = read_manifest(model)
    if "bits" not in manifest:
        return
    del manifest["bits"]
    kept = [entry for entry in model.metadata_props if entry.key != MANIFEST_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    model.metadata_props.add(key=MANIFEST_KEY, value=json.dumps(manifest))
