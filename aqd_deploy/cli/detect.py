"""`aqd-deploy detect`: boxes on image files."""

from __future__ import annotations

from pathlib import Path

import click

from aqd_deploy.cli.options import device_for, device_option, existing, json_option, threads_option
from aqd_deploy.cli.output import print_json, print_text, progress, verb


@verb(name="detect")
@click.argument("program", type=existing("PROGRAM"))
@click.argument("images", type=existing("IMAGE"), nargs=-1, required=True)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder for the results."
)
@click.option(
    "--score-threshold",
    type=click.FloatRange(0, 1),
    help="Lowest score to report.  [default: the manifest's]",
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
    score_threshold: float | None,
    draw_above: float,
    device: str | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Detect objects in images (files or folders) with a program (.so), a bundle or an integer ONNX
    file.

    Draws boxes into copies of the images and writes COCO results (results.json) to the output folder.
    """
    from aqd_deploy.workflow.detect import RESULTS, detect_images, image_files, with_score_threshold
    from aqd_deploy.workflow.runners import open_runner

    files = image_files(images)
    with open_runner(program, threads, device_for(program, device)) as runner:
        manifest = with_score_threshold(runner.manifest, score_threshold)
        found = detect_images(runner.run, manifest, files, output, draw_above=draw_above, progress=progress)
    boxes = sum(len(entry.detections) for entry in found)
    if as_json:
        print_json(
            {
                "folder": str(output),
                "results": str(output / RESULTS),
                "images": [
                    {"file": str(e.path), "image_id": e.image_id, "detections": len(e.detections)}
                    for e in found
                ],
            }
        )
    else:
        print_text(f"{output}: {len(found)} images, {boxes} detections in {RESULTS}")
