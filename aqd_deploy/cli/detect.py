"""`aqd-deploy detect`: boxes on image files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aqd_deploy.cli.options import (
    DescriptionType,
    device_for,
    device_option,
    existing,
    json_option,
    threads_option,
)
from aqd_deploy.cli.output import print_json, print_text, progress, verb

if TYPE_CHECKING:
    from aqd_deploy.errors import ImageError
    from aqd_deploy.workflow.detect import Detected

_SHOWN = 5


@verb(name="detect")
@click.argument("program", type=existing("PROGRAM"))
@click.argument("images", type=existing("IMAGE"), nargs=-1, required=True)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder for the results."
)
@click.option(
    "--detector",
    "description",
    type=DescriptionType(),
    metavar="F.toml|NAME",
    help="What the images and boxes of a network from elsewhere are: a file (docs/how-to/foreign-models.md) "
    "or a family (docs/how-to/yolo-files.md).",
)
@click.option(
    "--annotations",
    type=existing("FILE"),
    help="COCO annotations of the images: take the ids of images and categories from there.",
)
@click.option("--recursive", is_flag=True, help="Also take images of the folders in the folders.")
@click.option("--strict", is_flag=True, help="Write nothing where one of the images is damaged.")
@click.option(
    "--score-threshold",
    type=click.FloatRange(0, 1),
    help="Lowest score to report.  [default: all that the manifest's candidates give]",
)
@click.option(
    "--draw-above",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="Lowest score to draw.",
)
@device_option
@threads_option
@json_option
def command(
    program: Path,
    images: tuple[Path, ...],
    output: Path,
    description: Path | None,
    annotations: Path | None,
    recursive: bool,
    strict: bool,
    score_threshold: float | None,
    draw_above: float,
    device: str | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Detect objects in images (files, or those in folders) with a program (.so), a bundle or an integer ONNX
    file.

    Draws boxes into copies of the images and writes COCO results (results.json) to the output folder, and
    which image has which id and drawing (images.json), as they come. Images that cannot be read are told at
    the end, with exit code 1. Without --annotations, an image's id is the number that it is named by, or one
    that no other image has.
    """
    from aqd_deploy.detection.image_files import image_files
    from aqd_deploy.evaluation.coco import load_annotations
    from aqd_deploy.workflow.detect import counted, detect_images
    from aqd_deploy.workflow.results_folder import RESULTS
    from aqd_deploy.workflow.runners import open_runner

    files = image_files(images, recursive=recursive)
    dataset = None if annotations is None else load_annotations(annotations)
    with open_runner(program, threads, device_for(program, device)) as opened:
        runner = opened if description is None else opened.described(description)
        runner.check_detector()
        found = detect_images(
            runner.detect, runner.manifest, files, output, annotations=dataset,
            inputs=[path for path in (program, description, annotations) if path is not None],
            least_score=score_threshold, draw_above=draw_above, strict=strict, progress=progress,
        )  # fmt: skip
    if as_json:
        print_json(_document(output, found))
    elif found.images:
        images_done = counted(len(found.images), "image")
        boxes = sum(len(entry.detections) for entry in found.images)
        print_text(f"{output}: {images_done}, {counted(boxes, 'detection')} in {RESULTS}")
    if found.failed:
        raise _failure(found.failed, len(found.failed) + len(found.images))


def _document(output: Path, found: Detected) -> dict[str, Any]:
    """What --json prints."""
    from aqd_deploy.detection.image_files import printable
    from aqd_deploy.workflow.results_folder import RESULTS

    images = [
        {
            "file": printable(entry.path), "image_id": entry.image_id, "detections": len(entry.detections),
            "drawing": str(entry.drawing),
        }
        for entry in found.images
    ]  # fmt: skip
    failed = [{"file": printable(path), "error": error.sentence()} for path, error in found.failed.items()]
    results = str(output / RESULTS) if found.images else None
    return {"folder": str(output), "results": results, "images": images, "failed": failed}


def _failure(failed: dict[Path, ImageError], count: int) -> ImageError:
    """One image's own error where there is but one; else the first few of them."""
    from aqd_deploy.detection.image_files import printable
    from aqd_deploy.errors import ImageError

    if count == 1:
        return next(iter(failed.values()))
    shown = [f"{printable(path)} ({error.what})" for path, error in list(failed.items())[:_SHOWN]]
    more = [f"{len(failed) - _SHOWN} more"] if len(failed) > _SHOWN else []
    return ImageError(f"{len(failed)} of {count} images failed", received=", ".join([*shown, *more]))
