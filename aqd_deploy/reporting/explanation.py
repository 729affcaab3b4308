"""What each pass of lowering did, and why it left the rest alone, for people: lines that say the same of
different nodes become one.

The report has every line (`lower --json`, `passes`). Two lines are the same but for the nodes and the numbers
in them; a group tells how many they are, and from where to where each number goes.
"""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from onnx import ModelProto

from aqd_deploy.tables import WIDTH

# A node or a tensor: a word with a dot, an underscore, a slash or a digit in it that begins like a name.
_NAME = re.compile(r"(?<![\w.])(?=[\w./:-]*[._/\d])[A-Za-z_/](?:[\w./-]|:(?=\w))*")
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?![\w])")
_SUBJECT = re.compile(r"^NAME: ")


def explanation(report: dict[str, Any], tail: dict[str, Any] | None = None) -> str:
    """A paragraph for each pass of a lowering's report that says something, and one for the `tail_summary` of
    its tail.
    """
    parts = []
    for done in report["passes"]:
        lines = [*_grouped(done.get("changed", [])), *_grouped(done.get("left_alone", []), "left alone: ")]
        if lines:
            parts.append(_paragraph(done["pass"], lines))
    if tail is not None:
        boundary = [f"{name}: integers end here, the tail reads the reals" for name in tail["inputs"]]
        parts.append(_paragraph(f"tail ({tail['file']})", [*boundary, tail_sentence(tail)]))
    return "\n".join(parts)


def tail_summary(tail: ModelProto, path: Path) -> dict[str, Any]:
    """What a tail is, JSON-able: its `file`, names of `inputs` and `outputs`, and how many `operators`."""
    return {
        "file": str(path),
        "inputs": [value.name for value in tail.graph.input],
        "outputs": [value.name for value in tail.graph.output],
        "operators": dict(Counter(node.op_type for node in tail.graph.node).most_common()),
    }


def tail_sentence(tail: dict[str, Any]) -> str:
    """What stays float, and which outputs it makes."""
    operators = tail["operators"]
    kinds = ", ".join(kind if count == 1 else f"{kind} x{count}" for kind, count in operators.items())
    inputs, outputs = ", ".join(tail["inputs"]), ", ".join(tail["outputs"])
    if sum(operators.values()) == 1:
        return f"1 node stays float behind {inputs} and makes {outputs} ({kinds})"
    return f"{sum(operators.values())} nodes stay float behind {inputs} and make {outputs} ({kinds})"


def _paragraph(title: str, lines: Iterable[str]) -> str:
    wrapped = (
        textwrap.wrap(line, WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
        for line in lines
    )
    return "\n".join([f"{title}:", *(part for parts in wrapped for part in parts)])


def _grouped(lines: Iterable[str], before: str = "") -> list[str]:
    groups: dict[str, list[str]] = {}
    for line in lines:
        groups.setdefault(_NUMBER.sub("#", _masked(line)), []).append(line)
    return [f"{before}{_told(members)}" for members in groups.values()]


def _told(lines: list[str]) -> str:
    if len(lines) == 1:
        return lines[0]
    numbers = zip(*(map(float, _NUMBER.findall(_masked(line))) for line in lines), strict=True)
    spans = iter([_span(list(values)) for values in numbers])
    text = _NUMBER.sub(lambda _: next(spans), _masked(lines[0]))
    return f"{len(lines)} nodes: {_SUBJECT.sub('', text)}"


def _masked(line: str) -> str:
    """The line with `NAME` for every node, and for every list of nodes."""
    return re.sub(r"NAME(?:, NAME)+", "NAME", _NAME.sub("NAME", line))


def _span(values: list[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:.4g} to {high:.4g}"
