"""Detection on image files: boxes drawn into copies of the images, and COCO results JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aqd_deploy.detection.decode import Detections, decode
from aqd_deploy.detection.draw import draw
from aqd_deploy.detection.images import Preprocess, load_image
from aqd_deploy.detection.results import coco_results, write_results
from aqd_deploy.errors import AqdError, ImageError
from aqd_deploy.files import TemporaryFolder

IMAGE_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
)
RESULTS = "results.json"

Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


@dataclass(frozen=True)
class DetectedImage:
    """An image file, its detections, and the COCO image id it gets in the results."""

    path: Path
    image_id: int | str
    detections: Detections


def image_files(paths: Iterable[Path]) -> list[Path]:
    """The files named, and of each folder named the image files in it, by name.

    Raises ImageError for a path that does not exist and for a folder without images.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
            if not inside:
                raise ImageError("the folder has no images in it", received=str(path))
            found.extend(inside)
        elif path.exists():
            found.append(path)
        else:
            raise ImageError("there is no such image file", received=str(path))
    return found


def with_score_threshold(manifest: dict[str, Any], threshold: float | None) -> dict[str, Any]:
    """The manifest with another score threshold; itself where that is None."""
    if threshold is None or not isinstance(manifest.get("detector"), dict):
        return manifest
    return {**manifest, "detector": {**manifest["detector"], "score_threshold": threshold}}


def detect(run: Run, manifest: dict[str, Any], path: Path) -> tuple[np.ndarray, Detections]:
    """The image (uint8 [H, W, 3] RGB) of a file and what `run` (a program or the reference) detects in it."""
    preprocess = Preprocess.from_manifest(manifest)
    image = load_image(path)
    tensor, placement = preprocess(image)
    return image, decode(run({preprocess.input: tensor}), manifest, placement)


def detect_images(
    run: Run,
    manifest: dict[str, Any],
    files: list[Path],
    output: Path,
    *,
    draw_above: float = 0.5,
    progress: Callable[[str], None] = lambda _: None,
) -> list[DetectedImage]:
    """Detect in every file; write `<name>.png` with boxes of score ≥ `draw_above`, and `results.json`, to
    `output`.

    Files appear in `output` only when all images are done. Raises ImageError for a file that is no usable
    image.
    """
    if output.exists() and not output.is_dir():
        raise AqdError("the output is a file", received=str(output), valid="the name of a folder")
    if not output.parent.is_dir():
        raise AqdError("the folder of the output does not exist", received=str(output.parent))
    with TemporaryFolder(output.parent) as staging:
        found = [_detect_into(staging, run, manifest, path, draw_above, progress) for path in files]
        results = [r for entry in found for r in coco_results(entry.image_id, entry.detections)]
        write_results(staging / RESULTS, results)
        output.mkdir(exist_ok=True)
        for path in sorted(staging.iterdir(), key=lambda path: (path.name == RESULTS, path.name)):
            path.replace(output / path.name)
        return found


def _detect_into(
    folder: Path,
    run: Run,
    manifest: dict[str, Any],
    path: Path,
    draw_above: float,
    progress: Callable[[str], None],
) -> DetectedImage:
    image, detections = detect(run, manifest, path)
    shown = detections.scores >= draw_above
    kept = Detections(detections.boxes[shown], detections.scores[shown], detections.labels[shown])
    draw(image, kept, manifest["detector"]["classes"]).save(_free(folder, path.stem), format="PNG")
    progress(f"{path}: {len(kept)} boxes")
    return DetectedImage(path, _image_id(path), detections)


def _image_id(path: Path) -> int | str:
    """COCO names its images by their number; any other file goes by its name."""
    return int(path.stem) if path.stem.isdecimal() else path.name


def _free(folder: Path, stem: str) -> Path:
    """A PNG name not yet taken: two folders may hold images of one name."""
    candidate, count = folder / f"{stem}.png", 1
    while candidate.exists():
        count += 1
        candidate = folder / f"{stem}_{count}.png"
    return candidate
