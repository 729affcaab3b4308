"""[yolo] and [region]: what a detector's maps mean, as the manifest says it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from aqd_deploy.detection.detectors.yolov2 import Yolov2
from aqd_deploy.detection.detectors.yolov3 import YoloV3
from aqd_deploy.errors import ModelFileError, UnsupportedModelError
from aqd_deploy.frontends.darknet.network import FeatureMap, Head

_YOLO_TRAINING = (
    *("jitter", "ignore_thresh", "truth_thresh", "random", "resize", "max", "iou_thresh", "iou_loss"),
    *("iou_normalizer", "cls_normalizer", "obj_normalizer", "delta_normalizer", "label_smooth_eps"),
    *("max_delta", "focal_loss", "counters_per_class", "iou_thresh_kind", "beta_nms", "nms_kind"),
)
"""Keys of [yolo] that training reads, or suppression, for which `detect` has its own."""
_REGION_TRAINING = (
    *("bias_match", "jitter", "rescore", "object_scale", "noobject_scale", "class_scale", "coord_scale"),
    *("absolute", "thresh", "random", "max", "log"),
)
_LARGEST = 1e6
_Sides = list[list[float]]


def _yolo(heads: Sequence[Head], strides: Sequence[int]) -> dict[str, Any]:
    """Anchors are in pixels; `mask` says which of them a level has."""
    sides, scales = [], []
    for head in heads:
        section = head.section
        section.check_keys(("mask", "anchors", "classes", "num", "scale_x_y", "new_coords"), _YOLO_TRAINING)
        section.check_value("new_coords", "0", "0")
        anchors = _anchors(head)
        mask = (
            section.wholes("mask", 0, len(anchors) - 1) if "mask" in section.values else range(len(anchors))
        )
        sides.append([anchors[index] for index in mask])
        scales.append(section.numbers("scale_x_y", 1, 2, 1)[0] if "scale_x_y" in section.values else 1.0)
    entry: dict[str, Any] = {"kind": YoloV3.name, "anchors": {"sides": sides}}
    return entry if set(scales) == {1.0} else {**entry, "scale_xy": scales}


def _region(heads: Sequence[Head], strides: Sequence[int]) -> dict[str, Any]:
    """Anchors are in cells."""
    sides = []
    for head, stride in zip(heads, strides, strict=True):
        section = head.section
        section.check_keys(("anchors", "classes", "num", "coords", "softmax", "background"), _REGION_TRAINING)
        for key, default, valid in (("coords", "4", "4"), ("softmax", "0", "1"), ("background", "0", "0")):
            section.check_value(key, default, valid)
        sides.append([[side * stride for side in anchor] for anchor in _anchors(head)])
    return {"kind": Yolov2.name, "anchors": {"sides": sides}}


def _anchors(head: Head) -> _Sides:
    """Width and height of each anchor of a section, in its own unit."""
    section = head.section
    numbers = section.numbers("anchors", 0, _LARGEST)
    count = section.whole("num", 1, 1)
    if len(numbers) != 2 * count or min(numbers) <= 0:
        raise ModelFileError(
            f"{section.place} has another number of anchors than num says", received=len(numbers),
            valid=f"{2 * count} positive numbers, a width and a height each",
        )  # fmt: skip
    return [numbers[index : index + 2] for index in range(0, len(numbers), 2)]


KINDS: dict[str, Callable[[Sequence[Head], Sequence[int]], dict[str, Any]]] = {
    "region": _region, "yolo": _yolo,
}  # fmt: skip
"""By the name of the section: the kind and the anchors of a manifest's `detector`."""


def detector_entry(
    heads: Sequence[Head], image: FeatureMap, outputs: Sequence[str], names: Sequence[str] | None
) -> dict[str, Any]:
    """The manifest's `detector` of these heads, whose maps are these outputs; `names` are those of the
    classes.

    Raises ModelFileError and UnsupportedModelError for heads that do not fit each other or their maps.
    """
    first = heads[0].section
    for head in heads:
        if head.section.name != first.name:
            raise UnsupportedModelError(
                f"{head.section.place} is another head than the first", received=f"[{head.section.name}]",
                valid=f"[{first.name}]",
            )  # fmt: skip
    counts = [head.section.whole("classes", 20, 1) for head in heads]
    if len(set(counts)) > 1:
        raise ModelFileError(
            f"the heads of {first.file} have different numbers of classes",
            received=counts,
            valid="one number",
        )
    classes = [str(number) for number in range(counts[0])] if names is None else list(names)
    if len(classes) != counts[0]:
        raise ModelFileError(
            "the file of names has another number of classes than the cfg", received=len(classes),
            valid=f"{counts[0]} lines",
        )  # fmt: skip
    strides = [_stride(head, image) for head in heads]
    entry = KINDS[first.name](heads, strides)
    _check_channels(heads, [len(level) for level in entry["anchors"]["sides"]], counts[0])
    return {**entry, "classes": classes, "strides": strides, "outputs": {"map": list(outputs)}}


def _stride(head: Head, image: FeatureMap) -> int:
    across, down = image.width / head.map.width, image.height / head.map.height
    if across != down or across != int(across):
        raise ModelFileError(
            f"the image is no whole number of cells of {head.section.place}",
            received=f"{image.height} x {image.width} for {head.map.height} x {head.map.width} cells",
            valid="sides that the network halves without a rest",
            next_command="the same command with --image-size 416",
        )  # fmt: skip
    return int(across)


def _check_channels(heads: Sequence[Head], anchors: Sequence[int], classes: int) -> None:
    for head, count in zip(heads, anchors, strict=True):
        wanted = count * (5 + classes)
        if head.map.channels != wanted:
            raise ModelFileError(
                f"{head.section.place} reads a map of another number of channels",
                received=f"filters={head.map.channels}",
                valid=f"{wanted}: {count} anchors times 5 and {classes} classes",
            )
