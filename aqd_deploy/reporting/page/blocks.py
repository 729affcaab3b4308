"""What pages are made of, before it is written as HTML or Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element


@dataclass(frozen=True)
class Figure:
    """A number of the document and how it is written."""

    value: float
    text: str


Cell = Figure | str | None
"""None is a number that there is not."""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Items:
    """A list of sentences."""

    texts: Sequence[str]


@dataclass(frozen=True)
class Verdict:
    """A sentence that says whether something holds; None where that was not asked."""

    met: bool | None
    text: str
    said: str = ""

    @property
    def word(self) -> str:
        """For those who do not see colors: what is `said`, else what it says of a gate."""
        return self.said or {True: "met", False: "not met", None: "note"}[self.met]

    @property
    def kind(self) -> str:
        """Its class in the style sheet."""
        return {True: "met", False: "not-met", None: "note"}[self.met]


@dataclass(frozen=True)
class Command:
    """What is typed in a shell."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows whose first cell names them. `sortable`: by any column, where scripts run."""

    caption: str
    headers: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    sortable: bool = False

    def is_number(self, column: int) -> bool:
        """Whether the column has no texts."""
        cells = [row[column] for row in self.rows]
        return bool(cells) and not any(isinstance(cell, str) for cell in cells)


@dataclass(frozen=True)
class Chart:
    """A drawing, whose numbers are in `table`; None where the table is another block."""

    drawing: Element
    table: Table | None


@dataclass(frozen=True)
class Picture:
    """An image file that is shown within the page: `data` its bytes as `kind`, None where it cannot be
    shown; `file` its place relative to the folder of the run.
    """

    file: str
    caption: str
    alt: str
    kind: str = ""
    data: bytes | None = None


@dataclass(frozen=True)
class Pictures:
    """Pictures of one image, side by side."""

    title: str
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class More:
    """Blocks that are shown when asked for."""

    summary: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Section:
    """Blocks under a heading; sections within are a level deeper."""

    title: str
    blocks: Sequence[Block] = field(default_factory=tuple)


@dataclass(frozen=True)
class Page:
    """A whole page. `about` are sentences under its title."""

    title: str
    about: Sequence[str]
    blocks: Sequence[Block]


Block = Text | Items | Verdict | Command | Table | Chart | Pictures | More | Section
