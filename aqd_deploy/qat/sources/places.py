"""The paths of our modules that all readers map: those of a ResNet, of a pyramid and of a head's towers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from aqd_deploy.errors import CheckpointError
from aqd_deploy.qat.resnet import BLOCKS
from aqd_deploy.qat.sources.weights import Weights

LEVELS = 5
STAGES = (1, 2, 3, 4)


def backbone_of(weights: Weights, part: Callable[[int, int, str], str]) -> str:
    """Which ResNet it is, by the convolutions that there are: `part(stage, block, name)` is that of ours at
    `layer{stage}.{block}.{name}`.

    Raises CheckpointError for one that is none of ours.
    """
    counts = tuple(
        weights.count(part(stage, 0, "conv1").replace(".0.", ".{}.", 1) + ".weight") for stage in STAGES
    )
    deep = f"{part(1, 0, 'conv3')}.weight" in weights
    for name, blocks in BLOCKS.items():
        if blocks == counts and deep == (name == "resnet50"):
            return name
    raise CheckpointError(
        f"the backbone of {weights.owner} is none that is known",
        received=f"a ResNet of {counts} {'bottlenecks' if deep else 'blocks'}", valid=", ".join(BLOCKS),
    )  # fmt: skip


def block_paths(weights: Weights, backbone: str, part: Callable[[int, int, str], str]) -> Iterator[
    tuple[str, str]
]:  # fmt: skip
    """Our path of every convolution (with batch norm) of the blocks, and the checkpoint's convolution."""
    names = ("conv1", "conv2", *(("conv3",) if backbone == "resnet50" else ()), "downsample")
    for stage, count in zip(STAGES, BLOCKS[backbone], strict=True):
        for block in range(count):
            for name in names:
                theirs = part(stage, block, name)
                if name != "downsample" or f"{theirs}.weight" in weights:
                    yield f"backbone.layer{stage}.{block}.{name}", theirs


def width_of(weights: Weights, stem: str) -> float:
    """The factor on a ResNet's channels: of 64 in the convolution `stem`."""
    return weights.channels(stem)[0] / 64


def p6_source(weights: Weights, p6: str, pyramid: int, c5: int, kind: str) -> str:
    """What P6 is made from, by the channels that its convolution takes; `kind` is what it is made from in
    this kind of checkpoint, which decides where P5 and C5 have as many.

    Raises CheckpointError where they are neither the pyramid's nor C5's.
    """
    taken = weights.channels(p6)[1]
    fitting = [source for source, channels in (("p5", pyramid), ("c5", c5)) if channels == taken]
    if not fitting:
        raise CheckpointError(
            f"the convolution {p6} of {weights.owner} takes neither P5 nor C5",
            received=f"{taken} channels", valid=f"{pyramid} (P5) or {c5} (C5)",
        )  # fmt: skip
    return kind if kind in fitting else fitting[0]


def conv_norm(ours: str, conv: str, norm: str | None, levels: bool = False) -> dict[str, str]:
    """The names of a convolution and its norm: one batch norm, one a level, or none."""
    if norm is None:
        return {f"{ours}.conv": conv}
    if levels:
        return {f"{ours}.conv": conv} | {
            f"{ours}.bn.levels.{level}": f"{norm}.{level}" for level in range(LEVELS)
        }
    return {f"{ours}.conv": conv, f"{ours}.bn": norm}
