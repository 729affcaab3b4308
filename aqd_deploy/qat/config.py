"""What describes a detector: `ModelConfig`, its JSON text, and names such as `retinanet_r18`."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aqd_deploy.detection.detectors import DETECTORS, detector_named
from aqd_deploy.detection.detectors.contract import MapDetector
from aqd_deploy.detection.detectors.retinanet import RetinaNet
from aqd_deploy.detection.detectors.yolov2 import Yolov2
from aqd_deploy.errors import CheckpointError, ShapeError, UnsupportedModelError
from aqd_deploy.inputs import parse_json
from aqd_deploy.qat.quantizer_kinds import AQD, QUANTIZERS
from aqd_deploy.qat.quantizers import MAX_BITS, MIN_BITS
from aqd_deploy.schema import (
    SchemaError,
    anything,
    list_of,
    nothing_or,
    number,
    one_of,
    table,
    text,
    whole,
)

RESNETS = ("resnet18", "resnet34", "resnet50")
TINY_YOLO, DARKNET19 = "tiny-yolo", "darknet19"
YOLO_BODIES = (TINY_YOLO, DARKNET19)
BACKBONES = (*RESNETS, *YOLO_BODIES)
MODES = ("aqd", "aqd*")
P6_SOURCES = ("c5", "p5")
PYRAMIDS = ("bn-relu", "bias")
HEAD_NORMS = ("levels", "shared", "group", "none")
BATCH_NORMS = ("levels", "shared")
"""Norms of the head that become integer arithmetic."""
GROUPS = 32
SCHEMA = 1
COARSEST_BACKBONE_STRIDE = 32
STRIDES = (8, 16, 32, 64, 128)
YOLO_STRIDES = (32,)


_BITS = whole(MIN_BITS, MAX_BITS)
_SIDE = whole(1, 16384)
_SHAPES = list_of(number(above=0, high=1000), 1, 100)
_SIDES = list_of(list_of(number(above=0, high=1e6), 2, 2), 1, 100)


def _layer_bits(value: Any, place: str) -> None:
    """The path of a convolution, the bits of its weight and of its input."""
    list_of(anything, 3, 3)(value, place)
    for check, each in zip((text, nothing_or(_BITS), nothing_or(_BITS)), value, strict=True):
        check(each, place)


_SCHEMA = table({
    "detector": text, "backbone": text, "width": number(above=0, high=8), "fpn_channels": whole(1, 4096),
    "head_depth": whole(0, 64), "classes": whole(1, 100_000), "bits": nothing_or(_BITS),
    "first_last_bits": _BITS, "mode": text, "quantizer": text, "weight_standardization": one_of(False, True),
    "image_height": _SIDE,
    "image_width": _SIDE, "strides": list_of(whole(1, 1024), 1, len(STRIDES)),
    "anchor_base": number(above=0, high=1000), "anchor_scales": _SHAPES, "anchor_ratios": _SHAPES,
    "mean": list_of(number(0, 255), 3, 3), "p6_from": text, "pyramid": text, "head_norm": text,
    "stride_in_1x1": one_of(False, True), "cell_offset": number(0, 1), "anchor_sides": list_of(_SIDES),
    "layer_bits": list_of(_layer_bits), "score_threshold": number(0, 1), "nms_iou": number(0, 1),
    "max_detections": whole(1, 1 << 20), "pre_nms": whole(1, 1 << 20), "name": text,
    "class_names": list_of(text), "category_ids": list_of(whole()),
})  # fmt: skip


@dataclass(frozen=True)
class ModelConfig:
    """Everything `build_model` needs, and what a deployed detector must know of it.

    `bits` is the width of weights and activations, None for the float network. First and last layers have
    `first_last_bits` in mode `aqd` and stay float in mode `aqd*` (convolutions only); `layer_bits` has the
    convolutions with other bits: path, bits of the weight, bits of the input. `mean` is BGR, in pixels; whole
    numbers where the network is quantized. RetinaNet's anchors at stride s are `anchor_base` · s · scale
    large; or `anchor_sides` has them a level, (width, height) in pixels, in the order of the head's channels.
    The centre of cell i is at (i + `cell_offset`) · stride. `category_ids` are what the training set's
    annotations call the classes (COCO: 1 to 90 with gaps), where that is known.

    `quantizer` is how a training finds the intervals of its quantizers, by gradients (`aqd`) or by densities
    (`piecewise-gaussian`); their codes are the same.

    How networks of other frameworks differ: P6 is made from C5 or P5 (`p6_from`); a ResNet-50's stride is in
    a block's 3x3 convolution or in its first (`stride_in_1x1`); convolutions of the pyramid have batch norm
    and ReLU, or a bias alone (`pyramid`, in float networks only); those of the head's towers have a batch
    norm a level, one for all levels, group norm, or none (`head_norm`). Without a norm there are float
    networks only; with group norm quantized ones can be trained, to compare, and not exported.
    """

    detector: str = RetinaNet.name
    backbone: str = "resnet18"
    width: float = 1.0
    fpn_channels: int = 256
    head_depth: int = 4
    classes: int = 80
    bits: int | None = None
    first_last_bits: int = 8
    mode: str = "aqd"
    quantizer: str = AQD
    weight_standardization: bool = False
    image_height: int = 320
    image_width: int = 320
    strides: tuple[int, ...] = STRIDES
    anchor_base: float = 4.0
    anchor_scales: tuple[float, ...] = (1.0, 1.26, 1.587)
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    mean: tuple[float, float, float] = (104, 116, 124)
    p6_from: str = "c5"
    stride_in_1x1: bool = False
    pyramid: str = "bn-relu"
    head_norm: str = "levels"
    cell_offset: float = 0.5
    anchor_sides: tuple[tuple[tuple[float, float], ...], ...] = ()
    layer_bits: tuple[tuple[str, int | None, int | None], ...] = ()
    score_threshold: float = 0.05
    nms_iou: float = 0.6
    max_detections: int = 100
    pre_nms: int = 1000
    name: str = ""
    class_names: tuple[str, ...] = ()
    category_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        try:
            _SCHEMA(dataclasses.asdict(self), "")
        except SchemaError as error:
            raise error.of("the model description", UnsupportedModelError) from error
        detector_named(self.detector)
        for value, valid, what in (
            (self.backbone, BACKBONES, "backbone"),
            (self.mode, MODES, "mode"),
            (self.quantizer, tuple(QUANTIZERS), "quantizer"),
            (self.p6_from, P6_SOURCES, "source of P6"),
            (self.pyramid, PYRAMIDS, "form of the pyramid"),
            (self.head_norm, HEAD_NORMS, "norm of the head"),
        ):
            if value not in valid:
                raise UnsupportedModelError(f"unknown {what}", received=repr(value), valid=", ".join(valid))
        self._check_form()
        for side in (self.image_height, self.image_width):
            if side % COARSEST_BACKBONE_STRIDE:
                raise ShapeError(
                    "image height and width must be positive multiples of 32, the stride of the backbone",
                    received=f"{self.image_height}x{self.image_width}",
                    valid="for example 160, 320, 512",
                )
        if self.class_names and len(self.class_names) != self.classes:
            raise UnsupportedModelError(
                "class_names must name every class", received=len(self.class_names), valid=str(self.classes)
            )
        if self.category_ids and not len(self.category_ids) == len(set(self.category_ids)) == self.classes:
            raise UnsupportedModelError(
                "category_ids must have another number for every class",
                received=len(set(self.category_ids)), valid=str(self.classes),
            )  # fmt: skip

    def _check_form(self) -> None:
        """What only float networks have, and what has to fit the pyramid."""
        if self.bits is not None:
            if self.pyramid != "bn-relu" or self.head_norm == "none":
                raise UnsupportedModelError(
                    "a quantized network has a norm and ReLU behind every convolution",
                    received=f"pyramid {self.pyramid!r}, head_norm {self.head_norm!r}",
                    valid="pyramid 'bn-relu', head_norm 'levels' or 'shared'",
                )  # fmt: skip
            if any(mean != int(mean) for mean in self.mean):
                raise UnsupportedModelError(
                    "a quantized network subtracts whole numbers from the pixels",
                    received=f"mean {list(self.mean)}", valid="for example [104, 116, 124]",
                )  # fmt: skip
        if self.head_norm == "group" and self.fpn_channels % GROUPS:
            raise UnsupportedModelError(
                "the head's group norm has 32 groups", received=f"{self.fpn_channels} channels",
                valid="a multiple of 32",
            )  # fmt: skip
        if (self.detector == Yolov2.name) != (self.backbone in YOLO_BODIES):
            raise UnsupportedModelError(
                "YOLOv2's body and head belong together", received=f"{self.detector} on {self.backbone}",
                valid=f"{Yolov2.name} on {' or '.join(YOLO_BODIES)}, others on {', '.join(RESNETS)}",
            )  # fmt: skip
        levels = len(YOLO_STRIDES if self.backbone in YOLO_BODIES else STRIDES)
        if len(self.strides) != levels or (levels == 1 and not self.anchor_sides):
            raise UnsupportedModelError(
                "the network has another number of levels than strides, or no anchors",
                received=f"strides {list(self.strides)}, {len(self.anchor_sides)} lists of anchors",
                valid=f"{levels} for {self.detector}",
            )  # fmt: skip
        counts = {len(sides) for sides in self.anchor_sides}
        if self.anchor_sides and (len(self.anchor_sides) != len(self.strides) or len(counts) > 1):
            raise UnsupportedModelError(
                "anchor_sides must have as many anchors for every level",
                received=[len(sides) for sides in self.anchor_sides], valid=f"{len(self.strides)} levels",
            )  # fmt: skip

    @property
    def levels(self) -> tuple[str, ...]:
        """The pyramid levels, `p3` first; the only one of YOLOv2 is `p5`."""
        first = 5 if self.backbone in YOLO_BODIES else 3
        return tuple(f"p{first + i}" for i in range(len(self.strides)))

    @property
    def label(self) -> str:
        """`name`, or one made from detector, backbone and bits."""
        bits = "float" if self.bits is None else f"{self.bits}bit"
        if self.name:
            return self.name
        if self.backbone in YOLO_BODIES:
            network = next(name for name, made in YOLO_NETWORKS.items() if made["backbone"] == self.backbone)
            return f"{network}_{bits}"
        return f"{self.detector}_r{self.backbone.removeprefix('resnet')}_{bits}"

    @property
    def names_of_classes(self) -> tuple[str, ...]:
        """`class_names`, or the class numbers."""
        return self.class_names or tuple(str(i) for i in range(self.classes))

    def replace(self, **changes: Any) -> ModelConfig:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_json(self) -> str:
        """One JSON object, `schema` first."""
        return json.dumps({"schema": SCHEMA, **dataclasses.asdict(self)})

    @classmethod
    def from_json(cls, description: str) -> ModelConfig:
        """Reads `to_json`; CheckpointError where it is not such a description."""
        try:
            values = parse_json(description)
        except (TypeError, ValueError) as error:
            raise CheckpointError(
                f"the model description is not JSON ({error})"[:200], received=repr(description)[:80]
            ) from error
        if not isinstance(values, dict) or values.pop("schema", None) != SCHEMA:
            raise CheckpointError("the model description has an unknown schema", valid=f"schema {SCHEMA}")
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise CheckpointError("the model description has unknown fields", received=", ".join(unknown))
        fields: dict[str, Any] = {key: _frozen(value) for key, value in values.items()}
        try:
            return cls(**fields)
        except UnsupportedModelError as error:
            raise CheckpointError(
                f"the model description has impossible values: {error.what}",
                received=error.received, valid=error.valid, next_command=error.next_command,
            ) from error  # fmt: skip


def _frozen(value: Any) -> Any:
    """Lists of JSON, also those within lists, as the tuples of a configuration."""
    return tuple(_frozen(each) for each in value) if isinstance(value, list) else value


def _yolov2(body: str, cells: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """What a YOLOv2 of this body has, with anchors, (width, height) in cells."""
    (stride,) = YOLO_STRIDES
    return {
        "detector": Yolov2.name, "backbone": body, "strides": YOLO_STRIDES, "nms_iou": Yolov2.nms_iou,
        "anchor_sides": (tuple((stride * width, stride * height) for width, height in cells),),
    }  # fmt: skip


# Anchors of Darknet's yolov2-tiny-voc and yolov2-voc.
YOLO_NETWORKS: dict[str, dict[str, Any]] = {
    "yolov2_tiny": _yolov2(
        TINY_YOLO, ((1.08, 1.19), (3.42, 4.41), (6.63, 11.38), (9.42, 5.11), (16.62, 10.52))
    ),
    Yolov2.name: _yolov2(
        DARKNET19,
        ((1.3221, 1.73145), (3.19275, 4.00944), (5.05587, 8.09892), (9.47112, 4.84053), (11.2364, 10.0071)),
    ),
}


def architectures() -> tuple[str, ...]:
    """The names that `parse_architecture` knows."""
    pyramids = [name for name in _networks() if name != Yolov2.name]
    return (*(f"{d}_r{b.removeprefix('resnet')}" for d in pyramids for b in RESNETS), *YOLO_NETWORKS)


def _networks() -> dict[str, type[MapDetector]]:
    """The detectors whose outputs a network here can make."""
    return {name: kind for name, kind in DETECTORS.items() if issubclass(kind, MapDetector)}


def parse_architecture(name: str, **changes: Any) -> ModelConfig:
    """`retinanet_r18`, `fcos_r50` or `yolov2_tiny` as a ModelConfig, with `changes` to its fields.

    UnsupportedModelError, with the nearest names, for anything else.
    """
    if name in YOLO_NETWORKS:
        return ModelConfig(**{**YOLO_NETWORKS[name], **changes})
    match = re.fullmatch(r"(.+)_r(?:esnet)?(\d+)", name)
    detector, backbone = (match[1], f"resnet{match[2]}") if match else ("", "")
    if f"{detector}_r{backbone.removeprefix('resnet')}" not in architectures():
        near = difflib.get_close_matches(name, architectures(), n=2, cutoff=0.4)
        raise UnsupportedModelError(
            "unknown architecture",
            received=repr(name),
            valid=", ".join(architectures()),
            next_command=f"aqd-deploy export {near[0]} -o m.qdq.onnx" if near else None,
        )
    defaults: dict[str, Any] = {"nms_iou": _networks()[detector].nms_iou}
    return ModelConfig(detector=detector, backbone=backbone, **{**defaults, **changes})
