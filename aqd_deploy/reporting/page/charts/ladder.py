"""AP from stage to stage, a rung each."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from aqd_deploy.reporting.document import VARIANTS
from aqd_deploy.reporting.page.charts.scale import linear
from aqd_deploy.reporting.page.charts.svg import WIDTH, Drawing
from aqd_deploy.reporting.page.figures import change_in_points, points, written

_LEFT, _RIGHT, _TOP, _RUNG = 150, WIDTH - 104, 14, 34
_SHORTEST = 2.0
"""Points of AP that the axis shows at least, so that nothing looks like much."""


def ladder_chart(name: str, ladder: Sequence[Mapping[str, Any]]) -> Element | None:
    """The `ladder` of a summary; None where no stage has AP."""
    rungs = [step for step in ladder if step["AP"] is not None]
    if not rungs:
        return None
    bottom = _TOP + _RUNG * len(rungs)
    drawing = Drawing(
        name, "AP from stage to stage",
        "A rung for each stage from the float network down to the program; the further right, the higher AP.",
        bottom + 42,
    )  # fmt: skip
    scale = linear((100 * step["AP"] for step in rungs), _LEFT, _RIGHT, at_least=_SHORTEST)
    drawing.x_axis(scale, bottom, _TOP - 6, "AP in points")
    places = [(scale.at(100 * step["AP"]), _TOP + _RUNG * (index + 0.5)) for index, step in enumerate(rungs)]
    for (x1, y1), (x2, y2) in itertools.pairwise(places):
        drawing.line(x1, y1, x2, y2, "way")
    for step, (x, y) in zip(rungs, places, strict=True):
        drawing.text(_LEFT - 10, y + 4, VARIANTS[step["stage"]], anchor="end")
        drawing.mark(x, y, 0)
        label = written(points(step["AP"]))
        if step["change"] is not None:
            label += f" ({written(change_in_points(step['change']))})"
        drawing.text(WIDTH - 2, y + 4, label, "value", "end")
    return drawing.root
