"""Charts: axes with round ticks around all values, marks where the numbers say, none of nothing."""

from __future__ import annotations

import itertools
import math
import random
import re

import pytest
from report_documents import latency

from aqd_deploy.reporting.page.charts.ladder import ladder_chart
from aqd_deploy.reporting.page.charts.roofline import roofline_chart
from aqd_deploy.reporting.page.charts.scale import linear, logarithmic, tick_text
from aqd_deploy.reporting.page.charts.scatter import Point, scatter_chart
from aqd_deploy.reporting.page.charts.svg import COLORS, SHAPES, WIDTH, letters
from aqd_deploy.reporting.page.elements import html_text

VALUES = [[0.0, 40.94], [66.98, 70.21], [70.21, 70.21], [0.0, 0.0], [1e-4, 3e-4], [12.0, 9000.0]]


@pytest.mark.parametrize("values", VALUES)
def test_a_linear_axis(values):
    scale = linear(values, 10, 110, at_least=1e-3)
    places = [scale.at(value) for value in values]
    assert all(10 <= place <= 110 for place in places) and places == sorted(places)
    assert 2 <= len(scale.ticks) <= 8
    assert scale.at(scale.ticks[0]) == 10 and scale.at(scale.ticks[-1]) == 110
    steps = {round(after - before, 9) for before, after in zip(scale.ticks, scale.ticks[1:], strict=False)}
    assert len(steps) == 1


def test_small_differences_do_not_look_large():
    scale = linear([70.0, 70.1], 0, 100, at_least=2.0)
    assert scale.at(70.1) - scale.at(70.0) <= 100 * 0.1 / 2


@pytest.mark.parametrize("values", [[2.3, 97.0], [50.0, 50.0], [1e-3, 1e6], [0.9, 1.1]])
def test_a_logarithmic_axis(values):
    scale = logarithmic(values, 200, 20)
    places = [scale.at(value) for value in values]
    assert all(20 <= place <= 200 for place in places) and places == sorted(places, reverse=True)
    assert scale.high / scale.low >= 10 * (1 - 1e-9) and 2 <= len(scale.ticks) <= 11
    middle = math.sqrt(scale.low * scale.high)
    assert scale.at(middle) == pytest.approx(110, abs=0.1)


def test_ticks_are_written_without_dirt():
    assert [tick_text(value) for value in (0.30000000000000004, 1000.0, -0.5)] == ["0.3", "1000", "\u22120.5"]


def rung(stage, ap, change=None):
    return {"stage": stage, "AP": ap, "before": None, "change": change}


def test_the_ladder():
    steps = [rung("float", 0.6698), rung("integer_reference", None), rung("program", 0.7021, 0.0323)]
    text = html_text(ladder_chart("l", steps))
    assert text.count("<circle") == 2 and text.count('class="way"') == 1
    assert "66.98" in text and "70.21 (+3.23)" in text and "integer reference" not in text
    first, second = (float(x) for x in re.findall(r'cx="([\d.]+)"', text))
    assert first < second
    assert ladder_chart("l", []) is None and ladder_chart("l", [rung("float", None)]) is None


def test_the_scatter():
    points = [Point(letter, f"n{letter}", f"engine {letter}", 3.0, 0.7) for letter in "abcdef"]
    text = html_text(scatter_chart("s", points))
    assert len(re.findall(r'class="mark', text)) == 2 * len(points)
    places = re.findall(r'x="([\d.]+)" y="([\d.]+)" text-anchor="start" class="value">(\w)<', text)
    heights = sorted(float(y) for _, y, _ in places)
    assert len(places) == 6
    assert all(b - a >= 12.9 for a, b in itertools.pairwise(heights)), "letters on each other"
    assert scatter_chart("s", []) is None


def test_the_roofline():
    [measured] = latency(random.Random(3), 9)["measured"]
    calls = measured["layers"]
    text = html_text(roofline_chart("r", calls, measured["peak_gmacs_per_s"], {}))
    assert text.count('class="roof"') == 2 and len(re.findall(r'class="mark', text)) == 9 + 2
    assert "call8: blocked" in text
    idle = [{**call, "macs_per_byte": None} for call in calls]
    assert (
        roofline_chart("r", idle, {}, {}) is None and roofline_chart("r", [], {"vpmaddwd": 1.0}, {}) is None
    )
    one = html_text(roofline_chart("r", calls[:1], {"unknown": None}, {"memory": 1.0}))
    assert 'class="roof"' not in one and f'viewBox="0 0 {WIDTH} ' in one


def test_slopes_end_where_they_meet_the_highest_peak():
    call = {"name": "c", "kernel": "k", "macs_per_byte": 2.0, "executed_gmacs_per_s": 5.0}
    peaks, rates = {"a": 50.0, "b": 100.0}, {"memory": 10.0, "L2": 40.0, "nothing": None}
    text = html_text(roofline_chart("r", [call], peaks, rates))
    lines = re.findall(r'<line x1="([\d.]+)" y1="([\d.]+)" x2="([\d.]+)" y2="([\d.]+)" class="roof"', text)
    places = [tuple(map(float, line)) for line in lines]
    (_, _, _, top), memory, near = places[1], *places[2:]
    # In a decade of multiply-accumulates a byte as many of them a second; both meet the highest peak.
    assert memory[3] == near[3] == top and near[2] < memory[2]
    slopes = [(y1 - y2) / (x2 - x1) for x1, y1, x2, y2 in (memory, near)]
    assert slopes[0] == pytest.approx(slopes[1], rel=0.01) and slopes[0] > 0
    x, y = logarithmic([2.0, 10.0, 2.5], 50, WIDTH - 20), logarithmic([5.0, 50.0, 100.0], 264, 34)
    assert memory[2] == x.at(10.0) and near[2] == x.at(2.5) and top == y.at(100.0)


@pytest.mark.parametrize("value", [0.0, 5e-324, 1.7e308])
def test_what_nobody_can_measure_is_not_drawn(value):
    good, bad = Point("a", "n", "e", 3.0, 0.7), Point("b", "n", "e", value, 0.7)
    text = html_text(scatter_chart("s", [good, bad]))
    assert len(re.findall(r'class="mark', text)) == 2 and scatter_chart("s", [bad]) is None
    call = {"name": "c", "kernel": "k", "macs_per_byte": value, "executed_gmacs_per_s": 1.0}
    assert roofline_chart("r", [call], {}, {}) is None


def test_series_differ():
    looks = {(number % len(SHAPES), number % COLORS) for number in range(len(SHAPES) * COLORS)}
    assert len(looks) == len(SHAPES) * COLORS
    names = letters()
    assert [next(names) for _ in range(28)][-3:] == ["z", "aa", "ab"]
