"""A detector that sees what the first pixels of an image say: no network, and boxes that are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from aqd_deploy.own_files import LIST
from aqd_deploy.workflow import detect

SIDE, STRIDE = 64, 8
_PREPROCESSING = {"input": "image", "height": SIDE, "width": SIDE, "color": "RGB", "pad_value": [0, 0, 0]}


def manifest_of(classes=("cat", "dog"), **detector):
    """An FCOS detector of one level."""
    entry = {
        "kind": "fcos", "classes": list(classes), "strides": [STRIDE],
        "outputs": {"cls": ["cls"], "box": ["box"], "ctr": ["ctr"]}, "anchors": None,
        "score_threshold": 0.05, "nms_iou": 0.6, "max_detections": 100, "pre_nms": 1000, **detector,
    }  # fmt: skip
    return {"preprocessing": _PREPROCESSING, "detector": entry}


def run(inputs, classes=2):
    """The first row of pixels is read: red is the class, green its probability and blue the centre-ness, both
    in 255ths; each pixel that is not black is a box of 16 x 16 at another place.
    """
    image = inputs["image"][0].astype(np.float64)
    cells = SIDE // STRIDE
    cls = np.full((1, classes, cells, cells), -20.0)
    box, ctr = np.ones((1, 4, cells, cells)), np.zeros((1, 1, cells, cells))
    for x in range(0, 4):
        label, probability, centre = image[:, 0, x]
        if probability:
            cls[0, int(label), 2 * (x // 2), 3 * (x % 2)] = _logit(probability / 255)
            ctr[0, 0, 2 * (x // 2), 3 * (x % 2)] = _logit(centre / 255)
    return {"cls": cls.astype(np.float32), "box": box.astype(np.float32), "ctr": ctr.astype(np.float32)}


def _logit(probability):
    return np.log(probability / (1 - probability))


def save_image(path: Path, *pixels: tuple[int, int, int]) -> Path:
    """An image in which `run` sees a box for each of the `pixels` (at most 4)."""
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    for x, pixel in enumerate(pixels):
        image[0, x] = pixel
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, format="PNG")
    return path


CAT, DOG = (0, 200, 180), (1, 150, 160)
MANIFEST = manifest_of()


def detect_images(run, manifest, files, output, **options):
    """`detect.detect_images` of a list of files."""
    return detect.detect_images(run, manifest, detect.ImageFiles(list(files)), output, **options)


def read(folder: Path, name: str):
    """A JSON document."""
    return json.loads((folder / name).read_text())


def content(folder: Path) -> dict[str, bytes]:
    """All files but the list of those that are ours."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != LIST}
