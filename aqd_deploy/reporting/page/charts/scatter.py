"""Latency against AP: what is further left is faster, what is higher finds more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from aqd_deploy.reporting.page.charts.scale import Scale, drawable, linear
from aqd_deploy.reporting.page.charts.svg import WIDTH, Drawing

_LEFT, _RIGHT, _TOP, _BOTTOM = 44, WIDTH - 20, 34, 264
_APART = 13.0


@dataclass(frozen=True)
class Point:
    """A network on an engine: milliseconds, AP in 0..1, and the letter that stands for it in the table."""

    letter: str
    network: str
    engine: str
    ms: float
    ap: float


def scatter_chart(name: str, points: Sequence[Point]) -> Element | None:
    """None where nothing was both timed and evaluated."""
    points = [point for point in points if drawable(point.ms)]
    if not points:
        return None
    engines = list(dict.fromkeys(point.engine for point in points))
    drawing = Drawing(
        name, "Latency against AP",
        "A mark for each network on each engine; left is faster, up is more accurate. Letters are those of "
        "the table.",
        _BOTTOM + 50 + 18 * len(engines),
    )  # fmt: skip
    x = linear([0.0, *(point.ms for point in points)], _LEFT, _RIGHT)
    y = linear((100 * point.ap for point in points), _BOTTOM, _TOP, at_least=2.0)
    drawing.x_axis(x, _BOTTOM, _TOP, "ms an image, median")
    drawing.y_axis(y, _LEFT, _RIGHT, "AP in points")
    for point in points:
        tip = f"{point.letter}: {point.network}, {point.engine}"
        drawing.mark(x.at(point.ms), y.at(100 * point.ap), engines.index(point.engine), tip)
    _letters(drawing, points, x, y)
    drawing.legend(list(enumerate(engines)), _BOTTOM + 58)
    return drawing.root


def _letters(drawing: Drawing, points: Sequence[Point], x: Scale, y: Scale) -> None:
    """Beside the marks, further down where another letter stands already."""
    taken: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda each: -each.ap):
        at, level = x.at(point.ms) + 8, y.at(100 * point.ap) + 4
        while any(abs(at - left) < _APART and abs(level - up) < _APART for left, up in taken):
            level += 1
        taken.append((at, level))
        drawing.text(at, round(level, 1), point.letter, "value")
