"""Make the records that ship: tune networks one after the other, and keep the best record of every task.

    python tools/ship_records.py MODEL.int.onnx... --records DIR --budget 600 --threads 1 --threads 2 \
        -o targets/records/cascadelake-vnni.jsonl

Without models it takes what DIR has. A later run goes on where an earlier one ended.
"""

from __future__ import annotations

from pathlib import Path

import click

from aqd_deploy.cli.output import progress
from aqd_deploy.errors import RecordsError
from aqd_deploy.files import write_text
from aqd_deploy.integer.files import load_onnx
from aqd_deploy.records.file import FILE_NAME, read_records, shipped_lines


def best_lines(folder: Path) -> list[str]:
    """The lines of the file that ships. Raises RecordsError where the folder has no records.

    A task whose default was never beaten is left out: a later version's default may be better.
    """
    records = read_records(folder / FILE_NAME)
    if records.header is None:
        raise RecordsError("these records cannot be read", received="; ".join(records.notes))
    better = {key: record for key, record in records.best().items() if record.best_seconds is not None}
    return list(shipped_lines(records.header, records.shapes, better))


@click.command(help=__doc__)
@click.argument("models", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--records", required=True, type=click.Path(path_type=Path, file_okay=False))
@click.option("--budget", type=float, default=600.0, show_default=True, help="Seconds for each model.")
@click.option("--threads", "thread_counts", type=int, multiple=True, default=(1, 2), show_default=True)
@click.option("--target", default="host", show_default=True)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path))
def main(
    models: tuple[Path, ...],
    records: Path,
    budget: float,
    thread_counts: tuple[int, ...],
    target: str,
    output: Path,
) -> None:
    """The command."""
    from aqd_deploy.tuning.progress import network_seconds
    from aqd_deploy.tuning.tune import tune

    for model in models:
        for threads in thread_counts:
            report = tune(load_onnx(model), records, budget=budget, target=target, threads=threads)
            default, best = (1e3 * (seconds or 0.0) for seconds in network_seconds(report.states))
            progress(f"{model.name}, {threads} threads: {default:.2f} -> {best:.2f} ms")
            write_text(output, "\n".join(best_lines(records)) + "\n")
    lines = best_lines(records)
    write_text(output, "\n".join(lines) + "\n")
    progress(f"{output}: {sum('state' in line for line in lines)} tasks")


if __name__ == "__main__":
    main()
