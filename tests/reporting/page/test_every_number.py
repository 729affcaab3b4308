"""Every number of every page is one of the document, rounded; the rest is words."""

from __future__ import annotations

import html.parser
import itertools
import re
from collections.abc import Iterator
from typing import Any

import pytest
from report_documents import full_model, full_report

from aqd_deploy.reporting.page.blocks import Page
from aqd_deploy.reporting.page.comparison_page import comparison_page
from aqd_deploy.reporting.page.html import html_page
from aqd_deploy.reporting.page.markdown import markdown_page
from aqd_deploy.reporting.page.report_page import report_page
from aqd_deploy.reporting.run_comparison import compare_runs

_TOKEN = re.compile(r"(?<![\w.])(?<![A-Za-z]-)[+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?(?![A-Za-z_])")
# As it is, points and percent, megabytes and millions.
_SCALES = (1, 100, 1e-6)


class Texts(html.parser.HTMLParser):
    """What is read on a page, and the values that tables are sorted by. Numbers at the ticks of an axis are
    those of the axis.
    """

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.values: list[float] = []
        self._skipped = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self._skipped += self._skipped > 0 or tag in ("style", "script") or named.get("class") == "tick"
        self.texts += [value for key in ("alt", "aria-label") if (value := named.get(key))]
        if named.get("data-value"):
            self.values.append(float(named["data-value"]))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        raise AssertionError(f"{tag} ends itself")

    def handle_endtag(self, tag: str) -> None:
        self._skipped -= self._skipped > 0

    def handle_data(self, data: str) -> None:
        if not self._skipped:
            self.texts.append(data)


class VoidTexts(Texts):
    """Elements without an end are no place for texts."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        super().handle_starttag(tag, attrs)
        if tag in ("meta", "img", "br"):
            self.handle_endtag(tag)


def read(page: str) -> VoidTexts:
    texts = VoidTexts()
    texts.feed(page)
    return texts


def leaves(value: Any) -> Iterator[float | str]:
    """Every number, text and key."""
    if isinstance(value, dict):
        yield from value
        yield from itertools.chain.from_iterable(map(leaves, value.values()))
    elif isinstance(value, list):
        yield from itertools.chain.from_iterable(map(leaves, value))
    elif isinstance(value, (int, float, str)) and not isinstance(value, bool):
        yield value


def strangers(text: str, document: dict[str, Any]) -> list[str]:
    """The numbers of a text that the document does not have."""
    text = " ".join(text.replace("\N{MINUS SIGN}", "-").split())
    known: set[float] = set()
    for leaf in leaves(document):
        if isinstance(leaf, str):
            known |= {float(token.replace(",", "")) for token in _TOKEN.findall(leaf)}
        else:
            known.add(float(leaf))
    words = {" ".join(leaf.split()) for leaf in leaves(document) if isinstance(leaf, str) and len(leaf) > 2}
    for word in sorted(words, key=len, reverse=True):
        text = re.sub(rf"(?<![\w.]){re.escape(word)}(?![\w])", " ", text)
    return [token for token in _TOKEN.findall(text) if not any(_is(token, each) for each in known)]


def _is(token: str, number: float) -> bool:
    digits, _, exponent = token.replace(",", "").partition("e")
    unit = 10.0 ** (int(exponent or 0) - len(digits.partition(".")[2]))
    shown = abs(float(token.replace(",", "")))
    return any(abs(abs(number) * scale - shown) <= unit * (0.5 + 1e-6) for scale in _SCALES)


def two_models() -> dict[str, Any]:
    import random

    first = full_report()["models"][0]
    return full_report(models=[first, full_model("net_2bit", random.Random(2), 3, 0, 1)], gates=[])


def compared() -> tuple[Page, dict[str, Any]]:
    document = compare_runs({"one": full_report(1), "other": full_report(2)})
    return comparison_page(document), document


PAGES = {
    "a report": lambda: (report_page(report := full_report()), report),
    "two networks": lambda: (report_page(report := two_models()), report),
    "two runs": compared,
}


@pytest.mark.parametrize("name", PAGES)
def test_html_shows_numbers_of_the_document_only(name):
    page, document = PAGES[name]()
    texts = read(html_page(page))
    assert strangers("\n".join(texts.texts), document) == []
    numbers = {float(leaf) for leaf in leaves(document) if not isinstance(leaf, str)}
    assert texts.values and set(texts.values) <= numbers


@pytest.mark.parametrize("name", PAGES)
def test_markdown_shows_numbers_of_the_document_only(name):
    page, document = PAGES[name]()
    plain = re.sub(r"\\([\\`*<>\[\]|#_])", r"\1", markdown_page(page))
    # Places of links are names of files.
    assert strangers(re.sub(r"\]\([^)]*\)", "]", plain), document) == []


def test_a_number_of_somewhere_else_is_found():
    report = full_report()
    shown = f"{100 * report['models'][0]['accuracy']['program']['AP']:.2f}"
    assert strangers(f"AP {shown}", report) == []
    assert strangers(f"AP {float(shown) + 0.37:.2f}", report)
    text = "\n".join(read(html_page(report_page(report))).texts)
    assert shown in text
    assert strangers(text.replace(shown, f"{float(shown) + 0.37:.2f}"), report)


def test_most_numbers_of_the_document_are_shown():
    """The other way round: nothing that was measured of a network is left out by mistake."""
    report = full_report()
    model = report["models"][0]
    text = " ".join(read(html_page(report_page(report))).texts)
    for stage in model["accuracy"].values():
        for metric, value in stage.items():
            if isinstance(value, float):
                assert f"{100 * value:.2f}" in text, metric
    for layer in model["layers"]:
        assert layer["name"] in text and f"{layer['program']['differing']:,}" in text
    for call in model["latency"]["measured"][0]["layers"]:
        assert call["name"] in text
    for entry in model["files"].values():
        assert entry["sha256"] in text and f"{entry['bytes']:,}" in text
