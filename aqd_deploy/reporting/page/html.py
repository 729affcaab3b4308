"""A page as one HTML file that asks for nothing else: style, script and pictures are in it.

It reads well without the script (which sorts tables), without colors, on paper and aloud: headings in order,
captions and header cells of tables, titles and descriptions of charts, texts beside pictures.
"""

from __future__ import annotations

import base64
import importlib.resources
import itertools
from collections.abc import Iterable, Iterator, Sequence
from xml.etree.ElementTree import Element

from aqd_deploy.reporting.page.blocks import (
    Block,
    Cell,
    Chart,
    Command,
    Figure,
    Items,
    More,
    Page,
    Picture,
    Pictures,
    Section,
    Table,
    Text,
    Verdict,
)
from aqd_deploy.reporting.page.elements import append, element, html_text

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
_DEEPEST = 6
_LONG, _WIDE = 30, 8
"""More rows scroll within the page, more columns are printed small."""


def html_page(page: Page) -> str:
    """The text of the file, UTF-8."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("title", page.title),
        element("style", _file("style.css")),
    )
    writer = _Writer()
    sections = element("main", *writer.blocks(page.blocks, 2))
    header = element("header", element("h1", page.title), *(element("p", each) for each in page.about))
    body = element("body", header, writer.contents(), sections, element("script", _file("sort.js")))
    return html_text(element("html", head, body, lang="en"))


def _file(name: str) -> str:
    return (importlib.resources.files("aqd_deploy.reporting.page") / name).read_text(encoding="utf-8")


class _Writer:
    """Blocks to elements; knows the sections of the page's top."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._sections: list[tuple[str, str]] = []

    def blocks(self, blocks: Iterable[Block], level: int) -> Iterator[Element]:
        for block in blocks:
            yield self._block(block, level)

    def contents(self) -> Element:
        """Links to the sections that were written."""
        links = [element("li", element("a", title, href=f"#{name}")) for name, title in self._sections]
        return element("nav", element("ul", *links), aria_label="Contents")

    def _block(self, block: Block, level: int) -> Element:
        match block:
            case Section():
                return self._section(block, level)
            case Text():
                return element("p", block.text)
            case Items():
                return element("ul", *(element("li", each) for each in block.texts))
            case Verdict():
                word = element("strong", block.word)
                return element("p", word, " ", block.text, class_=f"verdict {block.kind}")
            case Command():
                return element("pre", element("code", block.text), tabindex=0)
            case Table():
                return self._table(block)
            case Chart():
                table = [] if block.table is None else [self._table(block.table)]
                return element("div", element("figure", block.drawing, class_="chart"), *table)
            case Pictures():
                title = element("figcaption", block.title)
                return element("figure", title, *map(_picture, block.pictures), class_="pictures")
            case More():
                summary = element("summary", block.summary)
                return element("details", summary, *self.blocks(block.blocks, level))

    def _section(self, section: Section, level: int) -> Element:
        name = f"section{next(self._numbers)}"
        if level == 2:
            self._sections.append((name, section.title))
        heading = element(f"h{min(level, _DEEPEST)}", section.title, id=name)
        # Only those at the top are landmarks, whose names must differ.
        label = name if level == 2 else None
        return element("section", heading, *self.blocks(section.blocks, level + 1), aria_labelledby=label)

    def _table(self, table: Table) -> Element:
        name = f"table{next(self._numbers)}"
        numbers = [table.is_number(column) for column in range(len(table.headers))]
        heads = [
            element("th", header, scope="col", class_="number" if number else None)
            for header, number in zip(table.headers, numbers, strict=True)
        ]
        rows = [element("tr", *_cells(row, numbers)) for row in table.rows]
        made = element(
            "table",
            element("caption", element("span", table.caption), id=name),
            element("thead", element("tr", *heads)),
            element("tbody", *rows),
            class_="sortable" if table.sortable else None,
        )
        # Reachable by keyboard, which scrolls it where it is wider than the page.
        kinds = {"scroll": True, "long": len(rows) > _LONG, "wide": len(table.headers) > _WIDE}
        kind = " ".join(each for each, holds in kinds.items() if holds)
        return element("div", made, class_=kind, tabindex=0, role="region", aria_labelledby=name)


def _cells(row: Sequence[Cell], numbers: Sequence[bool]) -> Iterator[Element]:
    for index, (cell, number) in enumerate(zip(row, numbers, strict=True)):
        kind = "number" if number else None
        if index == 0:
            yield element("th", _text(cell), scope="row", class_=kind)
        elif isinstance(cell, Figure):
            yield element("td", cell.text, class_=kind, data_value=cell.value)
        else:
            yield element("td", _text(cell), class_=kind)


def _text(cell: Cell) -> str:
    if cell is None:
        return "\N{EN DASH}"
    return cell.text if isinstance(cell, Figure) else cell


def _picture(picture: Picture) -> Element:
    made = element("div", class_="picture")
    if picture.data is None:
        append(made, element("p", f"{picture.file} cannot be shown."))
    else:
        data = base64.b64encode(picture.data).decode()
        append(made, element("img", src=f"data:{picture.kind};base64,{data}", alt=picture.alt))
    append(made, element("p", picture.caption))
    return made
