"""`aqd-deploy eval`: accuracy of any stages of a network over a data set."""

from __future__ import annotations

import time
from pathlib import Path

import click

from aqd_deploy.cli.options import (
    DescriptionType,
    device_for,
    device_option,
    existing,
    json_option,
    threads_option,
)
from aqd_deploy.cli.output import StatusLine, print_json, print_text, progress, verb

_SECONDS = 30.0
"""How often a log is told."""


@verb(name="eval")
@click.argument("files", metavar="[STAGE=]FILE...", nargs=-1, required=True)
@click.option("--annotations", type=existing("LABELS"), required=True,
              help="A COCO document, or a folder of Pascal VOC (.xml) or YOLO (.txt) labels.")  # fmt: skip
@click.option("--images", type=existing("DIR"), required=True, help="Folder of the labelled images.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, metavar="RUNDIR",
    help="Folder for the results of each stage and the report; what it has already is not run again.",
)  # fmt: skip
@click.option("--names", type=existing("FILE"), help="Names of YOLO's classes: a line each, or data.yaml.  "
              "[default: found beside the labels]")  # fmt: skip
@click.option(
    "--detector", "description", type=DescriptionType(), metavar="F.toml|NAME",
    help="What the images and boxes of files are that do not say so (docs/how-to/foreign-models.md).",
)  # fmt: skip
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the first N images, by name.")
@click.option(
    "--gate", "gates", multiple=True, metavar="GATE",
    help="Exit code 3 where it is not met: [STAGE.]NUMBER>=LIMIT or drop<=LIMIT, for example ap>=0.30, "
    "program.ap50>=0.5, drop<=0.002 (of the last stage from the first). Can be given several times.",
)  # fmt: skip
@click.option("--processes", type=click.IntRange(1, 256), default=1, show_default=True, metavar="N",
              help="Processes to spread the images over; boards, where the device lends some.")  # fmt: skip
@click.option(
    "--layers", is_flag=True,
    help="Add agreement layer by layer, the three numerics modes, latency and cost, on the first images.",
)  # fmt: skip
@device_option
@threads_option
@json_option
def command(
    files: tuple[str, ...], annotations: Path, images: Path, output: Path, names: Path | None,
    description: Path | None, limit: int | None, gates: tuple[str, ...], processes: int, layers: bool,
    device: str | None, threads: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Measure the accuracy of stages of a network: float ONNX, QDQ ONNX, integer ONNX, a program (.so) or a
    bundle, in the order given, over the same labelled images.

    Prints COCO's numbers and VOC AP of each, and writes them to RUNDIR/report.json, with pages made of it.
    A run that was killed goes on where it was. STAGE= tells what a file is where its kind does not:
    onnxruntime_int8=FILE.
    """
    from aqd_deploy.devices import LOCAL
    from aqd_deploy.errors import DeviceError
    from aqd_deploy.evaluation.gates import check_gates
    from aqd_deploy.reporting.accuracy_view import accuracy_view
    from aqd_deploy.reporting.report import REPORTS
    from aqd_deploy.workflow.evaluation.job import Told, evaluate_stages
    from aqd_deploy.workflow.evaluation.stages import PROGRAM, Stage, named_file, stage_of

    stages = []
    for name, path in map(named_file, files):
        stage = name or stage_of(path)
        where = device_for(path, device) if stage == PROGRAM else LOCAL
        stages.append(Stage(stage, path, where, description, threads))
    if device is not None and all(stage.name != PROGRAM for stage in stages):
        raise DeviceError("a device runs compiled programs", received=device, valid="a .so among the files")
    with StatusLine() as status:

        def line(text: str) -> None:
            status.clear()
            progress(text)

        document = evaluate_stages(
            stages, annotations, images, output, names=names, limit=limit, gates=gates, processes=processes,
            layers=layers, told=Told(line, _Status(status).show),
        )  # fmt: skip
    if as_json:
        print_json(document)
    else:
        print_text(accuracy_view(document))
        print_text("\n" + "\n".join(str(output / name) for name in REPORTS))
    check_gates(document["gates"])


class _Status:
    """How far it is: in a line that is rewritten for whoever waits at a terminal, elsewhere in one now and
    then.
    """

    def __init__(self, line: StatusLine) -> None:
        self._line, self._next = line, time.monotonic() + _SECONDS

    def show(self, text: str) -> None:
        if self._line.shown:
            self._line.show(text)
        elif time.monotonic() > self._next:
            progress(text)
            self._next = time.monotonic() + _SECONDS
