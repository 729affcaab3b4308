"""The HTML file: nothing from elsewhere, nothing that names can do, and what a screen reader needs."""

from __future__ import annotations

import html.parser
import itertools
import re

from report_documents import full_report

from aqd_deploy.reporting.page.blocks import More, Page, Section, Table, Text
from aqd_deploy.reporting.page.elements import element, html_text
from aqd_deploy.reporting.page.figures import count
from aqd_deploy.reporting.page.html import html_page
from aqd_deploy.reporting.page.markdown import escaped, markdown_page
from aqd_deploy.reporting.page.report_page import report_page

EVIL = "</style><script>alert(1)</script>\"'&<b>\x00\ud800|\n# x"


class Elements(html.parser.HTMLParser):
    """Every start tag with its attributes, and the texts within headings and captions."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for found, attributes in self.found if found == tag]


def shown() -> str:
    return html_page(report_page(full_report()))


def test_nothing_from_elsewhere():
    page = shown()
    assert "default-src 'none'" in page
    elements = Elements(page)
    for tag, attributes in elements.found:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        for name in ("src", "href", "srcset", "data", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/", "#")), value
    assert not re.search(r"@import|url\(|https?://", page)


def test_names_are_only_names():
    report = full_report(created=EVIL)
    model = report["models"][0]
    model["name"] = model["layers"][0]["name"] = model["preprocessing"] = EVIL
    report["images"]["folder"] = report["command"][1] = EVIL
    page = html_page(report_page(report))
    elements = Elements(page)
    assert len(elements.all("script")) == len(elements.all("style")) == 1 and not elements.all("b")
    assert page.encode() and "\x00" not in page
    # But for what is indented: code, in which nothing is markup.
    lines = [line for line in markdown_page(report_page(report)).splitlines() if not line.startswith("    ")]
    text = "\n".join(lines)
    assert "\\<script\\>" in text and not re.search(r"(?<!\\)<", text)
    assert not any(line.startswith("# ") for line in lines[1:])


def test_headings_go_down_by_one():
    levels = [int(tag[1]) for tag, _ in Elements(shown()).found if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_tables_charts_and_names_for_readers():
    elements = Elements(shown())
    assert len(elements.all("table")) == len(elements.all("caption")) > 8
    assert all(attributes.get("scope") in ("col", "row") for attributes in elements.all("th"))
    charts = elements.all("svg")
    assert len(charts) == 3
    assert all(chart["role"] == "img" and len(str(chart["aria-labelledby"]).split()) == 2 for chart in charts)
    names = [attributes["id"] for _, attributes in elements.found if "id" in attributes]
    assert len(names) == len(set(names))
    for _, attributes in elements.found:
        assert set((attributes.get("aria-labelledby") or "").split()) <= set(names)
        assert (attributes.get("href") or "#").removeprefix("#") in ("", *names)
    # What is wider than the page can be reached by keyboard.
    scrolled = [each for each in elements.all("div") if (each.get("class") or "").startswith("scroll")]
    assert scrolled and all(each["tabindex"] == "0" and each["role"] == "region" for each in scrolled)


def test_numbers_are_sorted_by_value():
    table = Table("t", ("a", "b"), [("x", count(1000)), ("y", None)], sortable=True)
    page = html_page(Page("p", [], [Section("s", [table, More("more", [Text("inside")])])]))
    assert 'data-value="1000"' in page and 'class="sortable"' in page and "<summary>more</summary>" in page
    assert table.is_number(1) and not table.is_number(0)


def test_elements():
    made = element("p", "a", None, element("b", "c"), "d<", class_="k", aria_label="l", left_out=None)
    assert html_text(made) == '<!DOCTYPE html>\n<p class="k" aria-label="l">a<b>c</b>d&lt;</p>\n'


def test_markdown_is_escaped():
    assert escaped("a|b `c` *d* <e> [f] _g_ h_i\nj") == r"a\|b \`c\` \*d\* \<e\> \[f\] \_g\_ h_i j"
