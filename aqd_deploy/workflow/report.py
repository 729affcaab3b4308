"""Pages of runs: of one, in its folder or elsewhere, and of two side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aqd_deploy.errors import AqdError
from aqd_deploy.files import check_output, write_text
from aqd_deploy.own_files import OwnFiles
from aqd_deploy.reporting.document import REPORT, read_report
from aqd_deploy.reporting.page.blocks import Page
from aqd_deploy.reporting.page.comparison_page import comparison_page
from aqd_deploy.reporting.page.html import html_page
from aqd_deploy.reporting.page.markdown import markdown_page
from aqd_deploy.reporting.page.report_page import report_page
from aqd_deploy.reporting.report import VIEWS
from aqd_deploy.reporting.run_comparison import compare_runs


def report_run(run: Path, output: Path | None = None) -> list[Path]:
    """Write the page of the run in the folder `run` (or of its report.json) as HTML and Markdown, to `output`
    and beside it, else to VIEWS in the folder. Returns both paths.

    Raises AqdError where there is no report of this version, or files of somebody else are in the way.
    """
    document = read_report(run)
    folder = run if run.is_dir() else run.parent
    if output is not None:
        html, markdown = _names(output, folder / REPORT)
        _write(report_page(document, folder), html, markdown)
        return [html, markdown]
    # The pages are those of the verb whose run it is.
    with OwnFiles(folder, document["kind"], VIEWS, ()) as own:
        staged = [own.staging / name for name in VIEWS]
        with own.writing():
            _write(report_page(document, folder), *staged)
        for path, name in zip(staged, VIEWS, strict=True):
            own.publish(path, name)
    return [folder / name for name in VIEWS]


def report_two_runs(first: Path, second: Path, output: Path | None = None) -> dict[str, Any]:
    """The document of two runs side by side (`compare_runs`), and its page as HTML and Markdown at `output`
    where one is named. Raises AqdError as `report_run`, and for a run beside itself.
    """
    runs = {str(run): read_report(run) for run in (first, second)}
    if len(runs) == 1:
        raise AqdError(
            "a run cannot be compared with itself", received=str(second), valid="the folder of another run"
        )
    document = compare_runs(runs)
    if output is not None:
        _write(comparison_page(document), *_names(output))
    return document


def _names(output: Path, *inputs: Path) -> tuple[Path, Path]:
    if output.suffix.lower() != ".html":
        raise AqdError("the page has no HTML name", received=str(output), valid="a name that ends in .html")
    names = output, output.with_suffix(".md")
    for name in names:
        check_output(name, *inputs)
    return names


def _write(page: Page, html: Path, markdown: Path) -> None:
    write_text(html, html_page(page))
    write_text(markdown, markdown_page(page))
