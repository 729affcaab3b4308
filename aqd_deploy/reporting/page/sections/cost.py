"""What a network costs beside time: bytes, arithmetic by width, and an estimate of energy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from aqd_deploy.reporting.page.blocks import Block, Items, Section, Table
from aqd_deploy.reporting.page.figures import count, megabytes, short, written

_BY_BITS = {
    "weights_bytes_by_bits": "bytes of weights of {} bits",
    "macs_by_bits": "multiply-accumulates of {} bits (weights x activations)",
    "products_by_bits": "other products of {} bits",
    "adds_by_bits": "other sums of {} bits",
}
_ENERGY = {
    "products_of_codes": "products of codes", "accumulation": "accumulation", "products": "other products",
    "sums": "other sums", "total": "all of it",
}  # fmt: skip


def cost(model: Mapping[str, Any]) -> Section | None:
    """None where it is not known."""
    blocks = [*_weights(model), *_counts(model), *_energy(model)]
    return Section("Cost", blocks) if blocks else None


def _weights(model: Mapping[str, Any]) -> Iterator[Block]:
    weights = model.get("weights")
    if weights:
        number, size = (written(count(weights.get(key))) for key in ("count", "bytes"))
        each = written(short(weights.get("bytes_per_weight")))
        yield Items([f"{number} weights in {size} bytes, {each} bytes a weight."])


def _counts(model: Mapping[str, Any]) -> Iterator[Block]:
    section = model.get("cost") or {}
    rows: list[tuple[str, Any]] = [
        (label.format(bits), count(value))
        for key, label in _BY_BITS.items()
        for bits, value in (section.get(key) or {}).items()
    ]
    rows += [("megabytes of the program", megabytes(section.get("file_bytes"))),
             ("megabytes of memory at most", short(section.get("peak_mb")))] if section else []  # fmt: skip
    if rows:
        yield Table(f"Counted for one image, {model['name']}", ("what", "number"), rows)


def _energy(model: Mapping[str, Any]) -> Iterator[Block]:
    section = model.get("cost") or {}
    known, scaled = section.get("energy_uj"), section.get("scaled_energy_uj") or {}
    if not known:
        return
    rows = [(label, short(known.get(key)), short(scaled.get(key))) for key, label in _ENERGY.items()]
    rows.append(("as many multiply-accumulates in float32", short(section.get("float32_energy_uj")), None))
    headers = ("arithmetic", "µJ by the table", "µJ scaled by bits")
    yield Table(f"Estimated energy of the arithmetic for one image, {model['name']}", headers, rows)
    notes = section.get("notes") or {}
    yield Items(
        [f"Source: {section.get('source')}.", *(f"{note[:1].upper()}{note[1:]}." for note in notes.values())]
    )
