"""Detection on image files: boxes drawn into copies of the images, and COCO results JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from aqd_deploy.detection.dataset import AnnotatedImages, category_ids, numbered
from aqd_deploy.detection.decode import Detections, decode
from aqd_deploy.detection.draw import draw
from aqd_deploy.detection.fonts import undrawable
from aqd_deploy.detection.images import Preprocess, load_image
from aqd_deploy.detection.results import coco_results
from aqd_deploy.detection.settings import DetectorSettings
from aqd_deploy.errors import ImageError
from aqd_deploy.workflow.results_folder import ResultsFolder, printable

IMAGE_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
)

Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


@dataclass(frozen=True)
class DetectedImage:
    """An image file, its detections, the COCO image id it has in the results, and its drawing."""

    path: Path
    image_id: int | str
    detections: Detections
    drawing: Path


@dataclass
class Detected:
    """The images in which objects were looked for, and what was wrong with each of the others."""

    images: list[DetectedImage] = field(default_factory=list)
    failed: dict[Path, ImageError] = field(default_factory=dict)


def image_files(paths: Iterable[Path], *, recursive: bool = False) -> list[Path]:
    """The files named, and of each folder named the image files in it (`recursive`: and below it), by name,
    each once. Files and folders whose names begin with a point, as those that macOS adds, are not looked at.

    Raises ImageError for a path that does not exist and for a folder without images.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = list(_inside(path, recursive))
            if not inside:
                below = "" if recursive or not any(_inside(path, True)) else "--recursive, for those below it"
                raise ImageError("the folder has no images in it", received=str(path), valid=below or None)
            found.extend(inside)
        elif path.exists():
            found.append(path)
        else:
            raise ImageError("there is no such image file", received=str(path))
    unique: dict[Path, Path] = {}
    for path in found:
        unique.setdefault(path.absolute(), path)
    return list(unique.values())


def _inside(folder: Path, recursive: bool) -> Iterable[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
            yield path
        elif recursive and path.is_dir() and not path.is_symlink():
            yield from _inside(path, recursive)


def detect(
    run: Run, manifest: dict[str, Any], path: Path, least_score: float | None = None
) -> tuple[np.ndarray, Detections]:
    """The image (uint8 [H, W, 3] RGB) of a file and what `run` (a program or the reference) detects in it.

    `least_score` leaves out what is below it. Candidates have a class probability above the manifest's
    threshold, or above `least_score` where that is less. Without it all is there that candidates become: FCOS
    multiplies a candidate's probability by its centre-ness, so scores may be below that threshold.
    """
    preprocess = Preprocess.from_manifest(manifest)
    image = load_image(path)
    tensor, placement = preprocess(image)
    outputs = run({preprocess.input: tensor})
    if least_score is None:
        return image, decode(outputs, manifest, placement)
    detector = manifest.get("detector") or {}
    threshold = min(least_score, DetectorSettings.from_manifest(manifest).score_threshold)
    lowered = {**manifest, "detector": {**detector, "score_threshold": threshold}}
    return image, decode(outputs, lowered, placement).at_least(least_score)


def detect_images(
    run: Run,
    manifest: dict[str, Any],
    files: list[Path],
    output: Path,
    *,
    annotations: dict[str, Any] | None = None,
    inputs: Iterable[Path] = (),
    least_score: float | None = None,
    draw_above: float = 0.5,
    strict: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> Detected:
    """Detect in every file and fill the folder `output` (`ResultsFolder`), with boxes of score ≥ `draw_above`
    drawn.

    Ids of images and categories are those of the COCO document `annotations`, else the manifest's category
    ids and `numbered` images. Files that are no usable image, or that `annotations` do not name, are left
    out; with `strict` the first one ends it, and nothing is written.

    Raises ImageError (strict), and what `ResultsFolder` raises; `inputs` are files that it must not replace.
    """
    files = list(dict.fromkeys(files))
    settings = DetectorSettings.from_manifest(manifest)
    ids, found = settings.category_ids, Detected()
    numbers: Mapping[Path, int | str] = numbered(files)
    if annotations is not None:
        ids = tuple(category_ids(settings.classes, annotations))
        numbers, found.failed = AnnotatedImages(annotations).assign(files)
    categories = [{"id": number, "name": name} for number, name in zip(ids, settings.classes, strict=True)]
    labels: set[int] = set()
    with ResultsFolder(output, files, inputs, categories, whole=strict) as folder:
        for path in files:
            try:
                if path in found.failed:
                    raise found.failed[path]
                image, detections = detect(run, manifest, path, least_score)
            except ImageError as error:
                if strict:
                    raise
                found.failed[path] = error
                progress(f"{printable(path)}: failed: {error.what}")
                continue
            height, width = image.shape[:2]
            entry = {"id": numbers[path], "file_name": printable(path), "width": width, "height": height}
            drawn = detections.at_least(draw_above)
            drawing = draw(image, drawn, settings.classes)
            folder.add(path, entry, _records(entry, detections, categories), drawing)
            found.images.append(
                DetectedImage(path, numbers[path], detections, output / folder.drawings[path])
            )
            progress(f"{printable(path)}: {len(drawn)} boxes")
            labels.update(drawn.labels.tolist())
    if names := undrawable(settings.classes[label] for label in sorted(labels)):
        progress(
            f"no font here has all characters of {', '.join(names[:3])}: drawn by number; "
            "apt-get install fontconfig fonts-noto-core fonts-noto-cjk"
        )
    return found


def _records(
    image: dict[str, Any], detections: Detections, categories: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """COCO result records, with the names of file and class beside the ids."""
    records = coco_results(image["id"], detections, [category["id"] for category in categories])
    return [
        {**record, "file_name": image["file_name"], "category_name": categories[label]["name"]}
        for record, label in zip(records, detections.labels.tolist(), strict=True)
    ]
