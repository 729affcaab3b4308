"""What a manifest says of a detector's input and outputs, held to the tensors of its graph.

The manifest tells how an image becomes the input and how outputs become boxes; nothing in the graph would
notice that it tells of another one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aqd_deploy.detection.images import Preprocess
from aqd_deploy.detection.settings import DetectorSettings
from aqd_deploy.errors import ModelFileError

Shapes = Mapping[str, Sequence[Any]]


def check_interface(
    manifest: dict[str, Any],
    inputs: Shapes,
    outputs: Shapes,
    strides: Mapping[str, Sequence[Any]] | None = None,
    *,
    more_outputs: bool = False,
) -> None:
    """Hold `preprocessing` and `detector` of a manifest, those that it has, to the shapes of the graph's
    inputs and outputs by name, as far as their sizes are numbers.

    - The image: an input of that name, of three channels and that height and width.
    - The levels: every output is named, once, and has the channels that classes and anchors ask for where
      it is a map; with `more_outputs` the graph may have others, which decoding does not read.
    - Each level's stride: `strides` (pixels down and across by output) where they are known, else one that
      makes as many cells of the image.

    Raises ModelFileError.
    """
    size = _check_image(manifest, inputs) if manifest.get("preprocessing") is not None else None
    if manifest.get("detector") is None:
        return
    settings = DetectorSettings.from_manifest(manifest)
    names = [name for level in settings.levels for name in level.outputs.values()]
    meant = [name for name in outputs if name in names or not more_outputs]
    if sorted(names) != sorted(meant):
        strange = sorted(set(names) ^ set(meant)) or sorted({n for n in names if names.count(n) > 1})
        raise _refused("detector.outputs", ", ".join(strange), f"each once: {', '.join(outputs)}")
    for name, channels, stride in _maps(settings):
        shape = settings.detector.map_shape(outputs[name])
        if not _known(shape):
            continue
        if len(shape) != 4:
            raise _refused("detector", f"a map [1, {channels}, H, W] of {name}", f"{list(shape)}")
        _, depth, *cells = shape
        if depth != channels:
            of = f"{len(settings.classes)} classes, {settings.detector.anchors_per_cell} anchors a cell"
            raise _refused("detector", f"{channels} channels of {name} ({of})", f"{depth}, as the graph has")
        if strides is not None:
            if any(each != stride for each in strides[name]):
                told = " x ".join(map(str, strides[name]))
                raise _refused("detector.strides", f"{stride} for {name}", f"{told}, as the graph has")
        elif size is not None and not all(
            side // stride <= count <= -(-side // stride) for side, count in zip(size, cells, strict=True)
        ):
            raise _refused("detector.strides", f"{stride} for {name}", f"one that makes {cells} of {size}")


def _known(shape: Sequence[Any]) -> bool:
    return all(isinstance(size, int) for size in shape)


def _check_image(manifest: dict[str, Any], inputs: Shapes) -> list[int]:
    """Height and width of the image."""
    preprocess = Preprocess.from_manifest(manifest)
    name, size = preprocess.input, [preprocess.height, preprocess.width]
    if name not in inputs:
        raise _refused("preprocessing.input", name, ", ".join(inputs))
    shape = list(inputs[name])
    if _known(shape) and shape != [1, 3, *size]:
        raise _refused(
            "preprocessing", f"height {size[0]}, width {size[1]}, 3 colours", f"{shape}, the shape of {name}",
            f"aqd-deploy lower FILE --shape {'x'.join(map(str, shape))} -o OUT, which sets both",
        )  # fmt: skip
    return size


def _maps(settings: DetectorSettings) -> list[tuple[str, int, int]]:
    """Name, channels and stride of every output that is a map."""
    return [
        (level.outputs[kind], channels, level.stride)
        for level in settings.levels
        for kind, channels in settings.detector.channels().items()
    ]


def _refused(
    key: str, received: object, valid: str, advice: str = "aqd-deploy export CHECKPOINT -o FILE"
) -> ModelFileError:
    return ModelFileError(
        f"the manifest tells of another network than the graph's at {key}",
        received=received,
        valid=valid,
        next_command=advice,
    )
