"""What torchvision's detectors have in common: backbone, pyramid and preprocessing.

Read of its public code: torchvision/models/detection/{retinanet,fcos,backbone_utils,transform}.py,
torchvision/ops/feature_pyramid_network.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aqd_deploy.errors import CheckpointError
from aqd_deploy.qat.config import parse_architecture
from aqd_deploy.qat.sources.contract import Description, Pixels
from aqd_deploy.qat.sources.places import backbone_of, block_paths, conv_norm, p6_source, width_of
from aqd_deploy.qat.sources.recipe import Recipe
from aqd_deploy.qat.sources.weights import Weights

BODY = "backbone.body."
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PIXELS = Pixels(tuple(255 * each for each in MEAN), tuple(255 * each for each in STD), rgb=True)


def describe(
    weights: Weights, recipe: Recipe | None, detector: str, head: Mapping[str, str], fields: dict[str, Any],
    *, p6_from: str, epsilon: float = 1e-5, notes: tuple[str, ...] = (),
) -> Description:  # fmt: skip
    """The network of a checkpoint: `head` has its modules by the names of ours, `fields` what the
    configuration says of it; `p6_from` is what P6 is made from in this kind. Raises CheckpointError where it
    is none of ours.
    """
    if recipe is not None:
        raise CheckpointError(
            "a checkpoint of torchvision has no training configuration", received=str(recipe.path),
            next_command="the same command without --config",
        )  # fmt: skip
    backbone = backbone_of(weights, _part)
    names = conv_norm("backbone.stem", f"{BODY}conv1", f"{BODY}bn1")
    for ours, theirs in block_paths(weights, backbone, _part):
        if ours.endswith("downsample"):
            names |= conv_norm(ours, theirs, f"{theirs[:-1]}1")
        else:
            names |= conv_norm(ours, theirs, theirs.replace(".conv", ".bn"))
    lateral = _pyramid_name(weights, "inner", 0)
    p6 = "backbone.fpn.extra_blocks.p6"
    for index in range(3):
        names |= conv_norm(f"fpn.lateral.{index}", _pyramid_name(weights, "inner", index), None)
        names |= conv_norm(f"fpn.output.{index}", _pyramid_name(weights, "layer", index), None)
    names |= conv_norm("fpn.p6", p6, None) | conv_norm("fpn.p7", p6.replace("p6", "p7"), None)
    channels = weights.channels(lateral)[0]
    c5 = weights.channels(_pyramid_name(weights, "inner", 2))[1]
    config = parse_architecture(
        f"{detector}_r{backbone.removeprefix('resnet')}", width=width_of(weights, f"{BODY}conv1"),
        fpn_channels=channels, pyramid="bias", p6_from=p6_source(weights, p6, channels, c5, p6_from),
        cell_offset=0.0, **fields,
    )  # fmt: skip
    return Description(config, {**names, **head}, PIXELS, epsilon, notes)


def _part(stage: int, block: int, name: str) -> str:
    return f"{BODY}layer{stage}.{block}.{'downsample.0' if name == 'downsample' else name}"


def _pyramid_name(weights: Weights, kind: str, index: int) -> str:
    """A convolution of the pyramid; versions before 0.13 have it one level less deep."""
    name = f"backbone.fpn.{kind}_blocks.{index}"
    return name if f"{name}.weight" in weights else f"{name}.0"
