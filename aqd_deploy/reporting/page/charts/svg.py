"""The pieces of charts: a canvas with title and description, axes, texts, marks that differ in shape."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element

from aqd_deploy.reporting.page.charts.scale import Scale, tick_text
from aqd_deploy.reporting.page.elements import element

WIDTH = 440
"""Of every chart, in units that are about a pixel on a telephone and more elsewhere."""
COLORS = 7
"""Those of the style sheet; not a multiple of the shapes, so that the two together tell 35 series apart."""
_SIZE = 5.0


@dataclass
class Drawing:
    """An SVG image of WIDTH times `height`. `name` tells its parts from those of other charts of the page."""

    name: str
    title: str
    description: str
    height: float
    root: Element = field(init=False)

    def __post_init__(self) -> None:
        title, description = f"{self.name}-title", f"{self.name}-text"
        self.root = element(
            "svg",
            element("title", self.title, id=title),
            element("desc", self.description, id=description),
            viewBox=f"0 0 {WIDTH} {self.height:g}",
            role="img",
            aria_labelledby=f"{title} {description}",
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        """A line of a class of the style sheet."""
        self.root.append(element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind))

    def text(self, x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> None:
        """A text whose baseline starts, is centered or ends at a place."""
        self.root.append(element("text", text, x=x, y=y, text_anchor=anchor, class_=kind or None))

    def mark(self, x: float, y: float, series: int, tip: str = "") -> None:
        """A point of a series, with what a pointer on it shows."""
        shape = SHAPES[series % len(SHAPES)](x, y)
        shape.set("class", f"mark color{series % COLORS}")
        if tip:
            shape.append(element("title", tip))
        self.root.append(shape)

    def x_axis(self, scale: Scale, y: float, top: float, label: str) -> None:
        """Ticks below `y`, their lines up to `top`."""
        for tick in scale.ticks:
            self.line(scale.at(tick), top, scale.at(tick), y, "grid")
            self.text(scale.at(tick), y + 16, tick_text(tick), "tick", "middle")
        self.text((scale.start + scale.end) / 2, y + 34, label, "axis", "middle")

    def y_axis(self, scale: Scale, x: float, right: float, label: str) -> None:
        """Ticks left of `x`, their lines up to `right`; the label above."""
        for tick in scale.ticks:
            self.line(x, scale.at(tick), right, scale.at(tick), "grid")
            self.text(x - 6, scale.at(tick) + 4, tick_text(tick), "tick", "end")
        self.text(4, min(scale.start, scale.end) - 12, label, "axis")

    def legend(self, labels: list[tuple[int, str]], y: float) -> float:
        """Marks with what they stand for, a line each from `y` on; where the next would be."""
        for series, label in labels:
            self.mark(12, y - 4, series)
            self.text(24, y, label)
            y += 18
        return y


def letters() -> itertools.chain[str]:
    """a to z, then aa to az and so on: names of points."""
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    pairs = (first + second for first in alphabet for second in alphabet)
    return itertools.chain(alphabet, pairs)


def _circle(x: float, y: float) -> Element:
    return element("circle", cx=x, cy=y, r=_SIZE)


def _square(x: float, y: float) -> Element:
    side = 2 * _SIZE - 1
    return element("rect", x=round(x - side / 2, 1), y=round(y - side / 2, 1), width=side, height=side)


def _polygon(*corners: tuple[float, float]) -> Callable[[float, float], Element]:
    def shape(x: float, y: float) -> Element:
        places = " ".join(f"{x + _SIZE * dx:.1f},{y + _SIZE * dy:.1f}" for dx, dy in corners)
        return element("polygon", points=places)

    return shape


SHAPES = (
    _circle,
    _square,
    _polygon((0, -1.2), (1.2, 1), (-1.2, 1)),
    _polygon((0, -1.4), (1.4, 0), (0, 1.4), (-1.4, 0)),
    _polygon((0, 1.2), (1.2, -1), (-1.2, -1)),
)
