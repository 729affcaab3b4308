"""What an image takes: every engine with its spread, and the steps around the network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from aqd_deploy.reporting.page.blocks import Block, Items, Section, Table, Text
from aqd_deploy.reporting.page.figures import count, percent, ratio, short, written

_STEPS = {
    "preprocess_ms": "image to input", "inference_ms": "network", "decode_ms": "outputs to boxes",
    "total_ms": "all of it",
}  # fmt: skip


def latency(model: Mapping[str, Any]) -> Section | None:
    """None where nothing was timed."""
    blocks = [
        *_engines(model.get("latency") or {}, model["name"]),
        *_steps(model.get("steps"), model["name"]),
    ]
    return Section("Latency", blocks) if blocks else None


def _engines(document: Mapping[str, Any], name: str) -> Iterator[Block]:
    for measured in document.get("measured") or []:
        threads, ratios = measured.get("threads"), measured.get("ratios") or {}
        rows = [
            (label, *(short(entry.get(key)) for key in _TIMES), percent(entry.get("spread")),
             ratio((ratios.get(label) or {}).get("of_medians")),
             ratio((ratios.get(label) or {}).get("of_minima")))
            for label, entry in (measured.get("contenders") or {}).items()
        ]  # fmt: skip
        caption = f"Milliseconds an image with {written(count(threads))} threads, {name}"
        yield Table(
            caption, ("engine", *_TIMES.values(), "spread", "our medians by its", "our fastest by its"), rows
        )
    if document.get("measured"):
        rounds, runs = (written(count(document.get(key))) for key in ("rounds", "runs_per_round"))
        where = document.get("device") or "this machine"
        yield Text(f"{rounds} interleaved rounds of {runs} runs on {where}, input: {document.get('input')}.")
        yield from _not_measured(document)


_TIMES = {
    "first_ms": "first", "min_ms": "fastest", "median_ms": "median", "p90_ms": "slowest tenth",
    "p99_ms": "slowest hundredth", "images_per_s": "images a second",
}  # fmt: skip


def _not_measured(document: Mapping[str, Any]) -> Iterator[Block]:
    told = [
        f"{each.get('contender')} was not measured: {each.get('reason')}"
        for each in document.get("failed") or []
    ]
    told += [f"{label}: {note}" for label, note in (document.get("notes") or {}).items()]
    told += [
        f"{each.get('peer')} is not installed; try: {each.get('next_command')}"
        for each in document.get("missing") or []
    ]
    if told:
        yield Items(told)


def _steps(steps: Mapping[str, Any] | None, name: str) -> Iterator[Block]:
    if not steps:
        return
    inside = steps.get("inside") or {}
    rows = [
        (label, short(steps[key]), inside.get(key, ""))
        for key, label in _STEPS.items()
        if steps.get(key) is not None
    ]
    yield Table(f"From pixels to boxes, {name}", ("step", "median ms", "what is in it"), rows)
