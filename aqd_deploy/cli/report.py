"""`aqd-deploy report`: pages of what a run measured, and two runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from aqd_deploy.cli.options import existing, json_option
from aqd_deploy.cli.output import print_json, print_text, verb


@verb(name="report")
@click.argument("run", type=existing("RUNDIR"))
@click.argument("other", type=existing("OTHER"), required=False)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.html",
    help="Where the page goes, FILE.md beside it.  [default: report.html in RUNDIR; of two runs: nowhere]",
)  # fmt: skip
@json_option
def command(run: Path, other: Path | None, output: Path | None, as_json: bool) -> None:
    """Make a page of what demo or eval left in RUNDIR: one HTML file that needs no network, and the same as
    Markdown.

    With OTHER, a second run: tell what got better and worse from RUNDIR to OTHER, by how much, and what
    cannot be compared and why. --json has every number.
    """
    if other is None:
        from aqd_deploy.workflow.report import report_run

        files = [str(path) for path in report_run(run, output)]
        if as_json:
            print_json({"files": files})
        else:
            print_text("\n".join(files))
        return
    from aqd_deploy.reporting.run_comparison_view import comparison_text
    from aqd_deploy.workflow.report import report_two_runs

    document: dict[str, Any] = report_two_runs(run, other, output)
    if as_json:
        print_json(document)
    else:
        print_text(comparison_text(document))
