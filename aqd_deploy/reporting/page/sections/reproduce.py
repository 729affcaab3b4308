"""What it takes to make the report again: command, machine, versions, and hashes of every file."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from aqd_deploy.reporting.document import VARIANTS
from aqd_deploy.reporting.page.blocks import Block, Cell, Command, Items, Section, Table
from aqd_deploy.reporting.page.figures import count, short, written

_MACHINE = {
    "cpu": "CPU", "threads": "threads", "thread_limits": "what limits them", "clock_mhz": "clock in MHz",
    "governor": "governor", "load": "load, mean of the last minute", "system": "system", "python": "Python",
    "aqd_deploy": "aqd-deploy",
}  # fmt: skip


def reproduce(document: Mapping[str, Any]) -> Section:
    """The last section of a report."""
    blocks: list[Block] = []
    if document.get("command"):
        blocks.append(Command(shlex.join(document["command"])))
    machine = document["environment"]
    rows: list[tuple[Cell, ...]] = [
        (label, _value(machine[key])) for key, label in _MACHINE.items() if machine.get(key) is not None
    ]
    rows += [(name, str(version)) for name, version in machine["packages"].items()]
    blocks += [Table("Machine and versions", ("what", "value"), rows), *_images(document["images"])]
    blocks += [each for model in document["models"] for each in _model(model)]
    return Section("How to reproduce this", blocks)


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _images(images: Mapping[str, Any]) -> Iterator[Block]:
    told = [f"{written(count(images['count']))} images of {images['folder']}."]
    labels = images.get("annotations")
    if labels:
        told.append(f"Labels: {labels['file']} ({images.get('format')}), SHA-256 {labels['sha256']}.")
    yield Items(told)


def _model(model: Mapping[str, Any]) -> Iterator[Block]:
    rows = [
        (VARIANTS.get(stage, stage), entry["file"], count(entry["bytes"]), entry.get("sha256") or "")
        for stage, entry in model["files"].items() if entry
    ]  # fmt: skip
    if rows:
        yield Table(f"Files, {model['name']}", ("stage", "file", "bytes", "SHA-256"), rows)
    told = [model["preprocessing"]] if model.get("preprocessing") else []
    seconds = [f"{step} {written(short(value))}" for step, value in model["seconds"].items()]
    told.append(f"Seconds: {', '.join(seconds)}.")
    yield Items(told)
    record = model.get("record")
    if isinstance(record, dict):
        trained = [(str(key), _value(value)) for key, value in record.items()]
        yield Table(f"How the checkpoint was trained, {model['name']}", ("what", "value"), trained)
    elif record:
        yield Items([f"How the checkpoint was trained: {record}"])
