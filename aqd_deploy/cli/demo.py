"""`aqd-deploy demo`: the whole way, on the shipped checkpoints and images."""

from __future__ import annotations

from pathlib import Path

import click

from aqd_deploy.cli.options import json_option, threads_option
from aqd_deploy.cli.output import print_json, print_text, progress, verb


@verb(name="demo")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("aqd-demo"),
    show_default=True,
    help="Folder for models, programs, drawn images and the report.",
)
@click.option(
    "--checkpoints", type=click.Path(path_type=Path), help="Folder of .pt files.  [default: shipped]"
)
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    help="Folder of images, with annotations.json for AP.  [default: shipped]",
)
@threads_option
@json_option
def command(
    output: Path, checkpoints: Path | None, images: Path | None, threads: int | None, as_json: bool
) -> None:
    """Checkpoint to boxes: export, lower, compile and run the shipped detectors, and report accuracy and
    speed.
    """
    from aqd_deploy.reporting.report import LEGEND, REPORTS, terminal_table
    from aqd_deploy.workflow.demo import demo

    progress("several minutes: every step of every network is measured")
    document = demo(output, checkpoints, images, threads=threads, progress=progress)
    if as_json:
        print_json(document)
    else:
        print_text(terminal_table(document))
        print_text("\n" + "\n".join(_wrap(LEGEND)))
        print_text("\n" + "\n".join(str(output / name) for name in REPORTS))
    differing = sum(model["agreement"]["program"]["differing"] for model in document["models"])
    if differing:
        from aqd_deploy.errors import GateError

        raise GateError(
            "the programs differ from the integer reference", received=f"{differing} integers", valid="0"
        )


def _wrap(text: str) -> list[str]:
    import textwrap

    return textwrap.wrap(text, 80)
