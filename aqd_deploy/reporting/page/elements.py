"""Elements of HTML and SVG. What goes into them is escaped by the writer, and has no control characters."""

from __future__ import annotations

import re
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

Child = Element | str | None
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def element(tag: str, *children: Child, **attributes: object) -> Element:
    """`class_` is class, `aria_label` aria-label; attributes that are None are left out."""
    named = {
        key.removesuffix("_").replace("_", "-"): printable(str(value))
        for key, value in attributes.items()
        if value is not None
    }
    made = Element(tag, named)
    append(made, *children)
    return made


def append(parent: Element, *children: Child) -> None:
    """Add elements and texts at the end."""
    for child in children:
        if isinstance(child, Element):
            parent.append(child)
        elif child is not None and len(parent):
            parent[-1].tail = (parent[-1].tail or "") + printable(child)
        elif child is not None:
            parent.text = (parent.text or "") + printable(child)


def printable(text: str) -> str:
    """With a mark in the place of what browsers do not show."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def html_text(root: Element) -> str:
    """The whole document."""
    return "<!DOCTYPE html>\n" + ElementTree.tostring(root, encoding="unicode", method="html") + "\n"
