"""Detection on image files: boxes drawn into copies of the images, and COCO results JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from aqd_deploy.detection.dataset import AnnotatedImages, category_ids, numbered
from aqd_deploy.detection.decode import Detections, Postprocess
from aqd_deploy.detection.draw import draw
from aqd_deploy.detection.fonts import undrawable
from aqd_deploy.detection.image_files import ImageFiles, printable
from aqd_deploy.detection.images import Preprocess, load_image
from aqd_deploy.detection.results import coco_results
from aqd_deploy.detection.settings import DetectorSettings
from aqd_deploy.errors import ImageError
from aqd_deploy.workflow.results_folder import ResultsFolder

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


@dataclass(frozen=True)
class ImageDetector:
    """`run` (a program or the reference) with what its manifest says of images and outputs, read once."""

    run: Run
    preprocess: Preprocess
    postprocess: Postprocess

    @classmethod
    def of(cls, run: Run, manifest: dict[str, Any], least_score: float | None = None) -> ImageDetector:
        """With `least_score` its candidates are all that can have that score. Raises ModelFileError for a
        manifest that does not fit.
        """
        postprocess = Postprocess.from_manifest(manifest)
        if least_score is not None:
            settings = postprocess.settings.with_candidates_for(least_score)
            postprocess = replace(postprocess, settings=settings)
        return cls(run, Preprocess.from_manifest(manifest), postprocess)

    def __call__(self, path: Path) -> tuple[np.ndarray, Detections]:
        """The image (uint8 [H, W, 3] RGB) of a file and what is detected in it. Raises ImageError."""
        image = load_image(path)
        tensor, placement = self.preprocess(image)
        return image, self.postprocess(self.run({self.preprocess.input: tensor}), placement)


def detect_images(
    run: Run,
    manifest: dict[str, Any],
    images: ImageFiles,
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
    drawn. With `least_score` all boxes of that score and above are given, and none below; without, all that
    the manifest's candidates become, which have a class probability above its `score_threshold`: a detector
    that multiplies it by another number gives scores below that threshold, too.

    Ids of images and categories are those of the COCO document `annotations`, else the manifest's category
    ids and `numbered` images. Files that are not usable images, or that `annotations` do not name, are left
    out; with `strict` the first one ends it, and nothing is written.

    Raises ImageError (strict), ModelFileError for a manifest that does not fit, and what `ResultsFolder`
    raises; `inputs` are files that it must not replace.
    """
    detector = ImageDetector.of(run, manifest, least_score)
    settings, found = detector.postprocess.settings, Detected()

    def failed(path: Path, error: ImageError) -> None:
        if strict:
            raise error
        found.failed[path] = error
        progress(f"{printable(path)}: failed: {error.what}")

    numbers, ids, refused = _ids(images.files, settings, annotations)
    for path, error in (images.refused | refused).items():
        failed(path, error)
    categories = [{"id": number, "name": name} for number, name in zip(ids, settings.classes, strict=True)]
    with ResultsFolder(output, images.files, inputs, categories, whole=strict) as folder:
        drawings = _Drawings(folder, output, categories, draw_above)
        for path in (path for path in images.files if path in numbers):
            try:
                image, detections = detector(path)
            except ImageError as error:
                failed(path, error)
                continue
            detections = detections.at_least(least_score or 0.0)
            detected, drawn = drawings.add(path, numbers[path], image, detections)
            found.images.append(detected)
            progress(f"{printable(path)}: {counted(drawn, 'box', 'es')}")
    if names := undrawable(settings.classes[label] for label in sorted(drawings.labels)):
        progress(
            f"no font here has all characters of {', '.join(names[:3])}: drawn by number; "
            "apt-get install fontconfig fonts-noto-core fonts-noto-cjk"
        )
    return found


def _ids(
    files: list[Path], settings: DetectorSettings, annotations: dict[str, Any] | None
) -> tuple[Mapping[Path, int | str], tuple[int, ...], dict[Path, ImageError]]:
    """The images' ids, those of the classes, and what is wrong with the images that have none."""
    if annotations is None:
        return numbered(files), settings.category_ids, {}
    ids = tuple(category_ids(settings.classes, annotations))
    numbers, refused = AnnotatedImages(annotations).assign(files)
    return numbers, ids, refused


@dataclass
class _Drawings:
    """Adds images to the results, and knows the `labels` that were drawn."""

    folder: ResultsFolder
    output: Path
    categories: list[dict[str, Any]]
    draw_above: float
    labels: set[int] = field(default_factory=set)

    def add(
        self, path: Path, number: int | str, image: np.ndarray, detections: Detections
    ) -> tuple[DetectedImage, int]:
        """The image as it is in the results, and how many boxes were drawn."""
        height, width = image.shape[:2]
        entry = {"id": number, "file_name": printable(path), "width": width, "height": height}
        drawn = detections.at_least(self.draw_above)
        drawing = draw(image, drawn, [category["name"] for category in self.categories])
        self.folder.add(path, entry, _records(entry, detections, self.categories), drawing)
        self.labels.update(drawn.labels.tolist())
        return DetectedImage(path, number, detections, self.output / self.folder.drawings[path]), len(drawn)


def counted(count: int, one: str, plural: str = "s") -> str:
    """`1 image`, `2 images`; `plural` is what stands behind the name of several."""
    return f"{count} {one}{'' if count == 1 else plural}"


def _records(
    image: dict[str, Any], detections: Detections, categories: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """COCO result records, with the names of file and class beside the ids."""
    records = coco_results(image["id"], detections, [category["id"] for category in categories])
    return [
        {**record, "file_name": image["file_name"], "category_name": categories[label]["name"]}
        for record, label in zip(records, detections.labels.tolist(), strict=True)
    ]
