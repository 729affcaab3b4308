"""Text tables of at most 80 columns, for terminals."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence

WIDTH = 80


def table(headers: Sequence[str], rows: Iterable[Sequence[object]], width: int = WIDTH) -> str:
    """Columns padded to their widest cell; numbers to the right; the widest column wraps where it does not
    fit.
    """
    head, blocks = table_blocks(headers, rows, width)
    return "\n".join([*head, *(line for block in blocks for line in block)])


def table_blocks(
    headers: Sequence[str], rows: Iterable[Sequence[object]], width: int = WIDTH
) -> tuple[list[str], list[list[str]]]:
    """`table` in parts: the lines of the headers, and of each row."""
    cells = [[_cell(value) for value in row] for row in rows]
    numeric = [bool(cells) and all(_is_number(row[i]) for row in cells) for i in range(len(headers))]
    widths = [max(len(header), *(len(row[i]) for row in cells), 1) for i, header in enumerate(headers)]
    room = width - 2 * (len(widths) - 1)
    while sum(widths) > room and max(widths) > 1:
        widths[widths.index(max(widths))] -= 1
    lines = _wrapped(list(headers), widths, numeric)
    lines.append("  ".join("-" * w for w in widths))
    return lines, [_wrapped(row, widths, numeric) for row in cells]


def key_values(values: Mapping[str, object], width: int = WIDTH) -> str:
    """`key  value` lines, values wrapped under themselves."""
    shown = {key: _cell(value) for key, value in values.items()}
    column = max((len(key) for key in shown), default=0)
    lines: list[str] = []
    for key, value in shown.items():
        parts = textwrap.wrap(value, max(20, width - column - 2)) or [""]
        lines.append(f"{key.ljust(column)}  {parts[0]}".rstrip())
        lines.extend(" " * (column + 2) + part for part in parts[1:])
    return "\n".join(lines)


def bullets(lines: Iterable[str], width: int = WIDTH) -> str:
    """`- line` each, wrapped under itself."""
    wrapped = (textwrap.wrap(line, width, initial_indent="- ", subsequent_indent="  ") for line in lines)
    return "\n".join(part for parts in wrapped for part in parts)


def lines_of(texts: Iterable[str], width: int = WIDTH) -> str:
    """A text a line, wrapped under itself; commands are not broken at hyphens."""
    wrapped = (textwrap.wrap(each, width, subsequent_indent="  ", break_on_hyphens=False) for each in texts)
    return "\n".join(part for parts in wrapped for part in parts)


def markdown_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """The same content as a Markdown table."""
    lines = ["| " + " | ".join(headers) + " |", "|" + "---|" * len(headers)]
    lines.extend("| " + " | ".join(_cell(value).replace("|", "\\|") for value in row) + " |" for row in rows)
    return "\n".join(lines)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.2f}" if value == 0 or 1e-2 <= abs(value) < 1e15 else f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={_cell(each)}" for key, each in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_cell(each) for each in value)
    return str(value)


def _is_number(text: str) -> bool:
    return text == "-" or text.replace(".", "", 1).replace("-", "", 1).replace("e", "", 1).isdigit()


def _wrapped(row: list[str], widths: list[int], right: list[bool]) -> list[str]:
    columns = [textwrap.wrap(cell, width) or [""] for cell, width in zip(row, widths, strict=True)]
    height = max(len(column) for column in columns)
    lines = []
    for index in range(height):
        parts = [column[index] if index < len(column) else "" for column in columns]
        aligned = [
            part.rjust(width) if flag else part.ljust(width)
            for part, width, flag in zip(parts, widths, right, strict=True)
        ]
        lines.append("  ".join(aligned).rstrip())
    return lines
