"""What checkpoints of Detectron2, of AdelaiDet and of AQD's authors (who changed both) have in common: the
backbone, the pyramid and how towers are made, with and without quantizers.

Read of their public code: detectron2/modeling/backbone/{resnet,fpn}.py, config/defaults.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aqd_deploy.errors import CheckpointError, UnsupportedModelError
from aqd_deploy.qat.config import parse_architecture
from aqd_deploy.qat.sources.bits import is_quantized, quantization
from aqd_deploy.qat.sources.contract import Description, Pixels
from aqd_deploy.qat.sources.places import (
    LEVELS,
    backbone_of,
    block_paths,
    conv_norm,
    p6_source,
    width_of,
)
from aqd_deploy.qat.sources.recipe import Recipe
from aqd_deploy.qat.sources.weights import Weights

BOTTOM_UP = "backbone.bottom_up."
STEM = f"{BOTTOM_UP}stem.conv1"
MEAN, AQD_MEAN = (103.53, 116.28, 123.675), (104.0, 116.0, 124.0)
DEEPEST_TOWER = 64


@dataclass(frozen=True)
class HeadNames:
    """A head's modules by the names of ours, and the fields of the configuration that follow from it;
    `p6_from` is what P6 is made from under such heads.
    """

    detector: str
    towers: Mapping[str, str]
    predictions: Mapping[str, str]
    scales: str | None
    p6_from: str
    fields: Callable[[Weights, Recipe | None], dict[str, Any]]


def describe(weights: Weights, recipe: Recipe | None, head: HeadNames) -> Description:
    """The network of a checkpoint. Raises CheckpointError where it is none of ours, UnsupportedModelError for
    one that is quantized and has group norm.
    """
    backbone = backbone_of(weights, _part)
    pyramid, pyramid_names = _pyramid(weights)
    head_norm, depth, head_names = _towers(weights, head)
    names = conv_norm("backbone.stem", STEM, f"{STEM}.norm")
    for ours, theirs in block_paths(weights, backbone, _part):
        names |= conv_norm(ours, theirs, f"{theirs}.norm")
    predictions = {f"head.{ours}": theirs for ours, theirs in head.predictions.items()}
    names |= pyramid_names | head_names | predictions
    channels = weights.channels("backbone.fpn_lateral3")[0]
    c5 = weights.channels("backbone.fpn_lateral5")[1]
    fields: dict[str, Any] = {
        "width": width_of(weights, STEM), "fpn_channels": channels, "head_depth": depth,
        "pyramid": pyramid, "head_norm": head_norm, **head.fields(weights, recipe),
        "p6_from": p6_source(weights, "backbone.top_block.p6", channels, c5, head.p6_from),
    }  # fmt: skip
    notes: list[str] = []
    authors = pyramid == "bn-relu"
    fields["stride_in_1x1"] = backbone == "resnet50" and _given(
        recipe, "MODEL.RESNETS.STRIDE_IN_1X1", not authors, notes
    )
    if is_quantized(weights):
        _refuse_group_norm(head_norm, weights.owner)
        fields |= _quantization(weights, recipe, names, tuple(predictions), notes)
    pixels = _pixels(weights, recipe, AQD_MEAN if authors else MEAN, notes)
    if head.scales is not None:
        names |= {f"head.scales.{level}": f"{head.scales}.{level}" for level in range(LEVELS)}
    config = parse_architecture(f"{head.detector}_r{backbone.removeprefix('resnet')}", **fields)
    return Description(config, names, pixels, notes=tuple(notes))


def _quantization(
    weights: Weights, recipe: Recipe | None, names: Mapping[str, str], last: tuple[str, ...], notes: list[str]
) -> dict[str, Any]:
    """The fields of the configuration that say how layers are quantized."""
    convolutions = {ours: theirs for ours, theirs in names.items() if ours.endswith(".conv") or ours in last}
    stable = recipe.get("MODEL.QUANTIZATION.stable") if recipe else None
    fields, floats = quantization(weights, convolutions, last, 0.0 if stable is None else stable)
    if floats:
        notes.append(f"not quantized: {', '.join(floats)}")
    adaptive = _given(recipe, "MODEL.QUANTIZATION.wt_adaptive", "var-mean", notes)
    notes.append("weights of first and last layers are taken as not standardised")
    return fields | {"weight_standardization": adaptive == "var-mean"}


def _refuse_group_norm(head_norm: str, owner: str) -> None:
    if head_norm == "group":
        raise UnsupportedModelError(
            "GroupNorm recomputes its statistics on every image, so a head that has it cannot be quantized",
            received=f"{owner} with quantizers and group norm", valid="a batch norm a level in its heads",
        )  # fmt: skip


def _part(stage: int, block: int, name: str) -> str:
    return f"{BOTTOM_UP}res{stage + 1}.{block}.{'shortcut' if name == 'downsample' else name}"


def _pyramid(weights: Weights) -> tuple[str, dict[str, str]]:
    """The pyramid's form and names: convolutions with a bias, or with batch norm and ReLU (`norm.0`)."""
    places = {
        **{f"fpn.lateral.{i}": f"backbone.fpn_lateral{3 + i}" for i in range(3)},
        **{f"fpn.output.{i}": f"backbone.fpn_output{3 + i}" for i in range(3)},
        "fpn.p6": "backbone.top_block.p6", "fpn.p7": "backbone.top_block.p7",
    }  # fmt: skip
    first = places["fpn.lateral.0"]
    normed = f"{first}.norm.0.running_mean" in weights
    if not normed and any(name.startswith(f"{first}.norm.") for name in weights.tensors):
        raise CheckpointError(
            f"the pyramid of {weights.owner} has a norm without a ReLU behind it", received=f"{first}.norm",
            valid="FPN.NORM of '' or 'SyncBN-ReLU'",
        )  # fmt: skip
    names: dict[str, str] = {}
    for ours, theirs in places.items():
        names |= conv_norm(ours, theirs, f"{theirs}.norm.0" if normed else None)
    return ("bn-relu" if normed else "bias"), names


def _towers(weights: Weights, head: HeadNames) -> tuple[str, int, dict[str, str]]:
    """The norm of the head, the convolutions of a tower, and their names."""
    found: dict[str, tuple[str, int]] = {}
    names: dict[str, str] = {}
    for ours, theirs in head.towers.items():
        places = [
            index for index in range(DEEPEST_TOWER)
            if f"{theirs}.{index}.weight" in weights and len(weights.shape(f"{theirs}.{index}.weight")) == 4
        ]  # fmt: skip
        weights.channels(f"{theirs}.0")
        norm = _norm_behind(weights, f"{theirs}.1")
        found[theirs] = (norm, len(places))
        for index, place in enumerate(places):
            path, conv, behind = f"head.{ours}.{index}", f"{theirs}.{place}", f"{theirs}.{place + 1}"
            names |= conv_norm(path, conv, behind if norm == "levels" else None, levels=True)
            names |= {f"{path}.norm": behind} if norm == "group" else {}
    if len(set(found.values())) > 1:
        raise CheckpointError(
            f"the towers of {weights.owner} are different ones",
            received=", ".join(f"{name}: {depth} x {norm}" for name, (norm, depth) in found.items()),
            valid="towers of one depth and one norm",
        )  # fmt: skip
    (norm, depth), *_ = found.values()
    return norm, depth, names


def _norm_behind(weights: Weights, behind: str) -> str:
    """The norm of a tower's convolution, that of the name `behind`: one a level, group norm, or none."""
    if f"{behind}.{LEVELS - 1}.running_mean" in weights:
        return "levels"
    if f"{behind}.running_mean" in weights:
        raise CheckpointError(
            f"the head of {weights.owner} has one batch norm for all levels",
            received=f"{behind}.running_mean",
            valid="a batch norm a level (multi-level BN), group norm, or none",
            next_command="train the head on with a batch norm a level",
        )  # fmt: skip
    if f"{behind}.0.running_mean" in weights:
        raise CheckpointError(
            f"a level of {weights.owner} is missing", received=f"no {behind}.{LEVELS - 1}.running_mean",
            valid=f"{LEVELS} levels, P3 to P7",
        )  # fmt: skip
    is_group = f"{behind}.weight" in weights and len(weights.shape(f"{behind}.weight")) == 1
    return "group" if is_group else "none"


def _given(recipe: Recipe | None, name: str, default: Any, notes: list[str]) -> Any:
    """What the training's configuration says, or `default`, which `notes` then tell."""
    value = recipe.get(name) if recipe else None
    if value is None:
        notes.append(f"{name} is taken as {default}")
        return default
    return value


def _pixels(weights: Weights, recipe: Recipe | None, default: tuple[float, ...], notes: list[str]) -> Pixels:
    """Mean and deviation: of the file (older versions save them), of the configuration, or the default."""
    if "pixel_mean" in weights:
        mean = weights.take("pixel_mean").flatten().tolist()
        std = weights.take("pixel_std").flatten().tolist()
        # float32 keeps 103.53 as 103.5299987793; what people wrote has three digits.
        mean, std = [round(each, 4) for each in mean], [round(each, 4) for each in std]
    else:
        mean = _given(recipe, "MODEL.PIXEL_MEAN", list(default), notes)
        std = (recipe.get("MODEL.PIXEL_STD") if recipe else None) or [1.0, 1.0, 1.0]
    color = (recipe.get("INPUT.FORMAT") if recipe else None) or "BGR"
    return Pixels(tuple(mean), tuple(std), color == "RGB")
