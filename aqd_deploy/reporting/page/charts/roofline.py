"""The roofline of kernel calls (Williams, Waterman, Patterson 2009): multiply-accumulates a byte moved
against multiply-accumulates a second, under the peaks that the machine's instructions were measured to have
and the slopes of what its memories were measured to give.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from aqd_deploy.reporting.page.charts.scale import Scale, drawable, logarithmic
from aqd_deploy.reporting.page.charts.svg import WIDTH, Drawing

_LEFT, _RIGHT, _TOP, _BOTTOM = 50, WIDTH - 20, 34, 264


def roofline_chart(
    name: str,
    calls: Sequence[Mapping[str, Any]],
    peaks: Mapping[str, float | None],
    rates: Mapping[str, float | None],
) -> Element | None:
    """A mark for each of `calls` (layers of a bench document), by kernel; a line for each of `peaks`, in
    G MAC/s, and a slope for each of `rates`, in GB/s, up to the highest peak. None where no call has both
    numbers.
    """
    known = [call for call in calls if _place(call) is not None]
    if not known:
        return None
    kernels = list(dict.fromkeys(str(call.get("kernel")) for call in known))
    roofs, slopes = _drawable(peaks), _drawable(rates) if _drawable(peaks) else {}
    ridges = {label: max(roofs.values()) / rate for label, rate in slopes.items()}
    places = [place for call in known if (place := _place(call)) is not None]
    drawing = Drawing(
        name, "Roofline of the kernel calls",
        "A mark for each kernel call that multiplies: right is more work for each byte moved, up is faster. "
        "Dashed lines are the measured peaks of the machine's instructions, slopes what its memories were "
        "measured to give: left of where they meet memory is the limit, right of it arithmetic.",
        _BOTTOM + 50 + 18 * len(kernels),
    )  # fmt: skip
    x = logarithmic([*(each[0] for each in places), *filter(drawable, ridges.values())], _LEFT, _RIGHT)
    y = logarithmic([*(each[1] for each in places), *roofs.values()], _BOTTOM, _TOP)
    drawing.x_axis(x, _BOTTOM, _TOP, "multiply-accumulates a byte moved")
    drawing.y_axis(y, _LEFT, _RIGHT, "G MAC/s")
    for label, peak in roofs.items():
        drawing.line(_LEFT, y.at(peak), _RIGHT, y.at(peak), "roof")
        drawing.text(_LEFT + 4, y.at(peak) - 4, label, "value")
    for label, rate in slopes.items():
        _slope(drawing, x, y, rate, ridges[label], label)
    for call, (across, up) in zip(known, places, strict=True):
        tip = f"{call['name']}: {call.get('kernel')}"
        drawing.mark(x.at(across), y.at(up), kernels.index(str(call.get("kernel"))), tip)
    drawing.legend(list(enumerate(kernels)), _BOTTOM + 58)
    return drawing.root


def _drawable(values: Mapping[str, float | None]) -> dict[str, float]:
    return {label: value for label, value in values.items() if value is not None and drawable(value)}


def _slope(drawing: Drawing, x: Scale, y: Scale, rate: float, ridge: float, label: str) -> None:
    """The line of `rate` bytes a second from the left or lower edge up to where it meets the highest peak;
    its name is below that end, where peaks have no names.
    """
    first, last = max(x.low, y.low / rate), min(x.high, ridge)
    if first >= last:
        return
    right, top = x.at(last), y.at(last * rate)
    drawing.line(x.at(first), y.at(first * rate), right, top, "roof")
    inside = right < (_LEFT + _RIGHT) / 2
    drawing.text(right + (2 if inside else -20), top + 16, label, "value", "start" if inside else "end")


def _place(call: Mapping[str, Any]) -> tuple[float, float] | None:
    across, up = call.get("macs_per_byte"), call.get("executed_gmacs_per_s")
    if across is None or up is None or not (drawable(across) and drawable(up)):
        return None
    return across, up
