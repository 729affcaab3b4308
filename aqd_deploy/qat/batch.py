"""What a batch of training images has to be: a loss computed from anything else is a number all the same."""

from __future__ import annotations

import torch
from torch import Tensor

from aqd_deploy.errors import TrainingError
from aqd_deploy.qat.config import ModelConfig

_VALID = "images uint8 [N, 3, H, W], boxes float32 [N, M, 4], labels int64 [N, M] (-1 in unused places)"


def check_batch(config: ModelConfig, batch: object) -> tuple[Tensor, Tensor, Tensor]:
    """The images, boxes and labels of `batch`, as `train`'s source gives them; M may be 0.

    Raises TrainingError where they are not tensors of these types and shapes, the images have another size
    than `config` says, a label is not one of its classes, or a box is empty, inverted, outside the image,
    reaches more than the finest stride (8 pixels) beyond it, or is (like all of its batch) in fractions of
    the image. So boxes that are rounded outwards pass, and those of a crop have to be clipped.
    """
    if (
        not isinstance(batch, tuple | list)
        or len(batch) != 3
        or not all(isinstance(x, Tensor) for x in batch)
    ):
        raise _refused("a batch is three tensors", _described(batch))
    images, boxes, labels = batch
    for name, value, kind in (
        ("the images", images, torch.uint8), ("the boxes", boxes, torch.float32),
        ("the labels", labels, torch.int64),
    ):  # fmt: skip
        if value.dtype != kind:
            raise _refused(f"{name} of a batch have another type", value.dtype)
    if images.dim() != 4 or images.shape[0] < 1 or images.shape[1] != 3:
        raise _refused("the images of a batch have another shape", list(images.shape))
    size = [config.image_height, config.image_width]
    if list(images.shape[2:]) != size:
        raise TrainingError(
            "the images of a batch have another size than the network's description",
            received=f"{images.shape[2]}x{images.shape[3]} (height x width)",
            valid=f"{size[0]}x{size[1]}",
        )
    if labels.dim() != 2 or len(labels) != len(images) or boxes.shape != (*labels.shape, 4):
        raise _refused(
            "the boxes and labels of a batch have other shapes than its images ask for",
            f"{list(images.shape)}, {list(boxes.shape)} and {list(labels.shape)}",
        )
    _check_labels(config, labels)
    _check_boxes(config, boxes[labels >= 0])
    return images, boxes, labels


def _check_labels(config: ModelConfig, labels: Tensor) -> None:
    strange = labels[(labels < -1) | (labels >= config.classes)]
    if strange.numel():
        raise TrainingError(
            "a label of a batch is not one of the network's classes",
            received=int(strange[0]),
            valid=f"0 to {config.classes - 1}, and -1 in unused places",
        )


def _check_boxes(config: ModelConfig, boxes: Tensor) -> None:
    """`boxes` [n, 4] are those in use."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    # Written so that a NaN fails.
    solid = (x2 > x1) & (y2 > y1) & torch.isfinite(boxes).all(dim=-1)
    width, height, rim = config.image_width, config.image_height, config.strides[0]
    inside = (x1 < width) & (y1 < height) & (x2 > 0) & (y2 > 0)
    within = (x1 >= -rim) & (y1 >= -rim) & (x2 <= width + rim) & (y2 <= height + rim)
    for held, what in (
        (solid, "is empty, inverted or not finite"),
        (inside, "is outside the image"),
        (within, f"reaches more than {rim} pixels beyond the image"),
    ):
        if not bool(held.all()):
            raise TrainingError(
                f"a box of a batch {what}",
                received=f"{boxes[~held][0].tolist()} on an image of {height}x{width} (height x width)",
                valid="x1, y1, x2, y2 in pixels of the image, clipped to it, x1 < x2 and y1 < y2",
            )
    if len(boxes) and float(boxes.abs().max()) <= 1:
        raise TrainingError(
            "every box of a batch lies within one pixel",
            received=boxes[0].tolist(),
            valid="x1, y1, x2, y2 in pixels of the image, not in fractions of it",
        )


def _described(batch: object) -> str:
    if isinstance(batch, tuple | list):
        return f"{len(batch)} values: {', '.join(type(each).__name__ for each in batch[:4])}"
    return type(batch).__name__


def _refused(what: str, received: object) -> TrainingError:
    return TrainingError(what, received=received, valid=_VALID)
