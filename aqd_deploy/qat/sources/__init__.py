"""Checkpoints from where they were trained: those of AQD's authors, Detectron2, AdelaiDet and torchvision.

To add one: a module with its `Source`, and its line in `SOURCES`.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from aqd_deploy.errors import CheckpointError
from aqd_deploy.qat.archive import read_archive
from aqd_deploy.qat.checkpoint import check_plain, restored_detector
from aqd_deploy.qat.models import Detector
from aqd_deploy.qat.sources.adelaidet_fcos import ADELAIDET_FCOS
from aqd_deploy.qat.sources.contract import Source
from aqd_deploy.qat.sources.detectron2_retinanet import DETECTRON2_RETINANET
from aqd_deploy.qat.sources.fill import filled
from aqd_deploy.qat.sources.recipe import read_recipe
from aqd_deploy.qat.sources.torchvision_fcos import TORCHVISION_FCOS
from aqd_deploy.qat.sources.torchvision_retinanet import TORCHVISION_RETINANET
from aqd_deploy.qat.sources.weights import Weights
from aqd_deploy.qat.wrapped import plain_names, several_networks, tables_in

SOURCES = (DETECTRON2_RETINANET, ADELAIDET_FCOS, TORCHVISION_RETINANET, TORCHVISION_FCOS)
IDLE = re.compile(r"num_batches_tracked$|\.quant_(weight|activation)\.(iteration|level_num|clip_val)$")
"""Names of a network's tensors that nothing is computed from: counters, and quantizers that are off."""
AVERAGED = re.compile(r"(^|[._])ema([._]|$)")


@dataclass(frozen=True)
class Origin:
    """Where a detector comes from, and what became of each tensor of its checkpoint: `missing` are those that
    the network can do without.
    """

    source: str
    used: tuple[str, ...]
    unused: tuple[str, ...]
    missing: tuple[str, ...]
    notes: tuple[str, ...]


class Loaded(NamedTuple):
    """A detector in eval mode, and its origin where it is none of our own checkpoints."""

    detector: Detector
    origin: Origin | None


def load_detector(
    path: str | os.PathLike[str],
    recipe: str | os.PathLike[str] | None = None,
    image_size: tuple[int, int] | None = None,
) -> Loaded:
    """The detector of a checkpoint, ours or one of `SOURCES`.

    `recipe` is the YAML file of its training; `image_size` (height, width) is what the network will be
    exported for. Both are for checkpoints from elsewhere: ours say it.

    Raises CheckpointError for files that are neither, MissingExtraError where a recipe cannot be read,
    ScaleError, ShapeError and UnsupportedModelError for networks that cannot be built.
    """
    path = Path(path)
    content = read_archive(path)
    found = _recognised(content, path)
    if found is None:
        if recipe is not None:
            raise CheckpointError(
                "only checkpoints of Detectron2 and AdelaiDet have a training configuration",
                received=f"{path} with {recipe}", next_command="the same command without --config",
            )  # fmt: skip
        return Loaded(restored_detector(content, path), None)
    source, state, notes = found
    weights = Weights(state, str(path))
    description = source.describe(weights, None if recipe is None else read_recipe(Path(recipe)))
    if image_size is not None:
        sides = dict(zip(("image_height", "image_width"), image_size, strict=True))
        description = replace(description, config=description.config.replace(**sides))
    detector = filled(description, weights)
    unused = tuple(sorted(set(state) - weights.used))
    _check_unused(source, unused, path)
    origin = Origin(
        source.title, tuple(sorted(weights.used)), unused, tuple(sorted(weights.missing)),
        (*notes, *description.notes),
    )  # fmt: skip
    return Loaded(detector, origin)


def _recognised(
    content: dict[str, Any], path: Path
) -> tuple[Source, dict[str, Tensor], tuple[str, ...]] | None:
    """The source of a file's weights, these by the network's own names, and what is to be said of them; None
    where it is none of `SOURCES`.
    """
    for source in SOURCES:
        states = tables_in(content, partial(_is_of, source))
        averaged = [key for key in states if AVERAGED.search(key)]
        if len(states) > 1 and len(averaged) != 1:
            raise several_networks(str(path), list(states))
        if states:
            key = averaged[0] if averaged else next(iter(states))
            notes = (f"the averaged weights are taken, under {key}",) if averaged else ()
            state = plain_names(states[key], source.marks[0], str(path))
            check_plain(state, path)
            return source, state, notes
    return None


def _is_of(source: Source, table: dict[Any, Any]) -> bool:
    names = [str(name) for name in table]

    def has(wanted: str) -> bool:
        return any(name.endswith(wanted) for name in names)

    return all(map(has, source.marks)) and not any(map(has, source.strangers))


def _check_unused(source: Source, unused: tuple[str, ...], path: Path) -> None:
    """Raise CheckpointError where the network has more layers than ours: it computes something else."""
    strange = [name for name in unused if name.startswith(source.own) and not IDLE.search(name)]
    if strange:
        raise CheckpointError(
            f"{path} is not the {source.title} that is known: its network has more layers",
            received=", ".join(strange[:4]), valid="a network without them",
        )  # fmt: skip
