"""Make the records that ship: the best ones of several folders in one file.

    python -m aqd_deploy.tuning.ship DIR... -o targets/records/cascadelake-vnni.jsonl

Folders must have equal headers but for the CPU's name. Of two records of one task the later folder's counts.
"""

from __future__ import annotations

from pathlib import Path

import click

from aqd_deploy.errors import RecordsError
from aqd_deploy.reporting.files import write_text
from aqd_deploy.tuning.records import FILE_NAME, Header, Record, read_records, shipped_lines


def merge(folders: list[Path]) -> list[str]:
    """The lines of the file that ships. Raises RecordsError for an unreadable or unfit folder."""
    header: Header | None = None
    shapes: dict[str, str] = {}
    best: dict[str, Record] = {}
    for folder in folders:
        records = read_records(folder / FILE_NAME)
        if records.header is None:
            raise RecordsError("these records cannot be read", received="; ".join(records.notes))
        if header is not None and _what_matters(records.header) != _what_matters(header):
            raise RecordsError("these records hold for something else than the first", received=str(folder))
        header = records.header
        shapes.update(records.shapes)
        best.update(records.best())
    if header is None:
        raise RecordsError("no folders of records were named")
    return list(shipped_lines(header, shapes, best))


def _what_matters(header: Header) -> tuple[object, ...]:
    return (header.kernels, header.tvm, header.isa, header.profile, header.cpu)


@click.command(help=__doc__)
@click.argument("folders", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path))
def main(folders: tuple[Path, ...], output: Path) -> None:
    """The command."""
    lines = merge(list(folders))
    write_text(output, "\n".join(lines) + "\n")
    click.echo(f"{output}: {sum('state' in line for line in lines)} tasks", err=True)


if __name__ == "__main__":
    main()
