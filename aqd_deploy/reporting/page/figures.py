"""How numbers of the document are written. None stays None."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aqd_deploy.reporting.page.blocks import Cell, Figure

MINUS = "\N{MINUS SIGN}"
Format = Callable[[Any], Cell]


def _figure(write: Callable[[float], str]) -> Format:
    def figure(value: Any) -> Cell:
        if value is None:
            return None
        return Figure(value, write(value).replace("-", MINUS))

    return figure


def _short(value: float) -> str:
    """Three digits, or all in front of the point; a whole number as it is."""
    if isinstance(value, int) or value == 0 or 1000 <= abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:#.3g}".removesuffix(".")


count = _figure(lambda value: f"{value:,}")
short = _figure(_short)
points = _figure(lambda value: f"{100 * value:.2f}")
change_in_points = _figure(lambda value: f"{100 * value:+.2f}" if value else "0.00")
percent = _figure(lambda value: f"{100 * value:.1f} %")
change_in_percent = _figure(lambda value: f"{100 * value:+.1f} %" if value else "0.0 %")
ratio = _figure(lambda value: f"{value:.2f}")
decibels = _figure(lambda value: f"{value:.1f}")
correlation = _figure(lambda value: f"{value:.6f}")
megabytes = _figure(lambda value: f"{value / 1e6:.2f}")
millions = _figure(lambda value: _short(value / 1e6))


def signed(write: Format) -> Format:
    """Of a change: with a sign also where it is more."""

    def figure(value: Any) -> Cell:
        cell = write(value)
        return Figure(cell.value, f"+{cell.text}") if isinstance(cell, Figure) and value > 0 else cell

    return figure


def written(cell: Cell) -> str:
    """In a sentence."""
    if cell is None:
        return "not known"
    return cell.text if isinstance(cell, Figure) else cell
