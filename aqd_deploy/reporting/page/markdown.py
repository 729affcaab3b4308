"""A page as Markdown (GitHub's). Charts are their tables, pictures links to the files of the run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import quote

from aqd_deploy.reporting.page.blocks import (
    Block,
    Chart,
    Command,
    Figure,
    Items,
    More,
    Page,
    Pictures,
    Section,
    Table,
    Text,
    Verdict,
)
from aqd_deploy.reporting.page.elements import printable

_MARKUP = re.compile(r"([\\`*<>\[\]|#])|(?<!\w)_|_(?!\w)")


def markdown_page(page: Page) -> str:
    """The text of the file."""
    parts = [f"# {escaped(page.title)}", *map(escaped, page.about)]
    for block in page.blocks:
        parts += _written(block, 2)
    return "\n\n".join(parts) + "\n"


def escaped(text: str) -> str:
    """One line in which nothing is markup."""
    return _MARKUP.sub(r"\\\g<0>", " ".join(printable(text).split()))


def _written(block: Block, level: int) -> Iterator[str]:
    match block:
        case Section():
            yield f"{'#' * min(level, 6)} {escaped(block.title)}"
            for each in block.blocks:
                yield from _written(each, level + 1)
        case Text():
            yield escaped(block.text)
        case Items():
            yield "\n".join(f"- {escaped(each)}" for each in block.texts)
        case Verdict():
            yield f"**{block.word}**: {escaped(block.text)}"
        case Command():
            lines = printable(block.text).splitlines()
            yield "\n".join(f"    {line}" for line in lines)
        case Table():
            yield from _table(block)
        case Chart():
            if block.table is not None:
                yield from _table(block.table)
        case Pictures():
            links = [f"[{escaped(each.caption)}]({quote(each.file)})" for each in block.pictures]
            yield f"{escaped(block.title)}: {', '.join(links)}"
        case More():
            yield f"**{escaped(block.summary)}**"
            for each in block.blocks:
                yield from _written(each, level)


def _table(table: Table) -> Iterator[str]:
    yield f"{escaped(table.caption)}:"
    rules = ["---:" if table.is_number(column) else "---" for column in range(len(table.headers))]
    lines = [[escaped(header) for header in table.headers], rules]
    for row in table.rows:
        texts = [cell.text if isinstance(cell, Figure) else cell for cell in row]
        lines.append(["\N{EN DASH}" if text is None else escaped(text) for text in texts])
    yield "\n".join(f"| {' | '.join(line)} |" for line in lines)
