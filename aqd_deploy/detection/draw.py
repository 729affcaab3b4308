"""Draws detections into an image: boxes, class names and scores, readable on small images too."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from aqd_deploy.detection.decode import Detections
from aqd_deploy.detection.fonts import Font, font_for

SMALLEST_SIDE = 480  # images whose longer side is below are enlarged by a whole factor
PALETTE = (
    (230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200), (245, 130, 48), (145, 30, 180),
    (70, 240, 240), (240, 50, 230), (210, 245, 60), (250, 190, 212), (0, 128, 128), (170, 110, 40),
)  # fmt: skip

_Box = tuple[int, int, int, int]


def draw(
    image: np.ndarray, detections: Detections, classes: Sequence[str], factor: int | None = None
) -> Image.Image:
    """The image (uint8 [H, W, 3] RGB) with its detections, as an RGB Pillow image `factor` times as large.

    Without `factor`, small images are enlarged by the least whole factor that makes their longer side at
    least 480 pixels. Less certain boxes are drawn first, so that the best lie on top. A class whose name no
    font at hand can write is called by its number, `#3`.
    """
    height, width = image.shape[:2]
    factor = factor or max(1, -(-SMALLEST_SIDE // max(height, width)))
    canvas = Image.fromarray(image)
    if factor > 1:
        canvas = canvas.resize((width * factor, height * factor), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(canvas)
    side = max(canvas.size)
    letters = max(13, side // 36)
    thickness = max(2, side // 300)
    boxes = [_in_pixels(box, factor) for box in detections.boxes]
    for k in reversed(range(len(detections))):
        x1, y1, x2, y2 = boxes[k]
        # A dark rim keeps the box visible on a background of its own colour.
        pen.rectangle((x1 - 1, y1 - 1, x2, y2), outline=(0, 0, 0), width=thickness + 2)
        pen.rectangle((x1, y1, x2 - 1, y2 - 1), outline=_colour(detections.labels[k]), width=thickness)
    taken: list[_Box] = []
    for box, label, score in zip(boxes, detections.labels, detections.scores, strict=True):
        text, font = _label(classes[label], label, score, letters)
        plate = _plate(pen, font, text, box, canvas.size, taken)
        pen.rectangle(plate, fill=_colour(label))
        middle = ((plate[0] + plate[2]) / 2, (plate[1] + plate[3]) / 2)
        pen.text(middle, text, fill=_ink(_colour(label)), font=font, anchor="mm")
        taken.append(plate)
    return canvas


def _in_pixels(box: np.ndarray, factor: int) -> _Box:
    """The box (x1, y1, x2, y2) in pixels of the enlarged image, at least one pixel wide and high."""
    x1, y1, x2, y2 = (round(float(value) * factor) for value in box)
    return x1, y1, max(x1 + 1, x2), max(y1 + 1, y2)


def _label(name: str, number: int, score: float, size: int) -> tuple[str, Font]:
    font = font_for(name, size)
    if font is None:
        name, font = f"#{number}", font_for("#", size)
        assert font is not None, "Pillow's own font has ASCII"
    return f"{name} {score:.2f}", font


def _colour(label: int) -> tuple[int, int, int]:
    return PALETTE[int(label) % len(PALETTE)]


def _plate(
    pen: ImageDraw.ImageDraw,
    font: Font,
    text: str,
    box: _Box,
    size: tuple[int, int],
    taken: list[_Box],
) -> _Box:
    """Where the label goes: above the box, below, inside at the top or inside at the bottom, whichever is
    inside the image and covers no other label; above where none is, moved into the image."""
    x1, y1, x2, y2 = pen.textbbox((0, 0), text, font=font)
    width, height = round(x2 - x1) + 6, round(y2 - y1) + 6
    left = max(0, min(box[0], size[0] - width))
    tops = [box[1] - height, box[3], box[1], box[3] - height]
    plates = [(left, top, left + width, top + height) for top in tops if 0 <= top <= size[1] - height]
    for plate in plates:
        if not any(_touch(plate, other) for other in taken):
            return plate
    top = max(0, min(tops[0], size[1] - height))
    return plates[0] if plates else (left, top, left + width, top + height)


def _touch(a: _Box, b: _Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _ink(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black or white, whichever can be read on the colour (ITU-R BT.601 luma)."""
    luma = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    return (0, 0, 0) if luma > 140 else (255, 255, 255)
