"""Two runs side by side: what got better and worse, by how much, and what cannot be compared and why.

The document of `aqd-deploy report A B`:

    schema        1
    runs[]        the two: folder, kind, created, command
    differs[]     what, first, second: machine, versions, images and files that are not the same
    models[]      name, rows[]: group, what, of, unit (a key of UNITS), first, second, change (second −
                  first), share (change by first, null where that is 0), verdict (one of VERDICTS)
    not_compared[]  what, why
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aqd_deploy.bench.contenders import OURS
from aqd_deploy.reporting.document import ACCURACY, VARIANTS

COMPARISON_SCHEMA = 1
UNITS = ("share", "ms", "bytes", "mb", "uj", "count", "number")
VERDICTS = ("better", "worse", "same", "within noise")
OTHER_ENGINES = "other engines"
"""The group of times that say something of the machine, not of the network."""
_DIGITS = 9
_LARGEST = 1e15
"""What is larger was not measured, and its differences may be no numbers."""
_MACHINE = {
    "cpu": "CPU",
    "threads": "threads",
    "system": "system",
    "python": "Python",
    "aqd_deploy": "aqd-deploy",
}
Key = tuple[str, str, str]


@dataclass(frozen=True)
class Quantity:
    """A number of a run that another run may have, too. `noise` is the share by which it differs from round
    to round.
    """

    unit: str
    value: float
    higher_is_better: bool
    noise: float = 0.0


def compare_runs(runs: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The document, of two checked reports by the names of their folders, the earlier one first."""
    (first_name, first), (second_name, second) = runs.items()
    barred = dict(_barred(first, second))
    pairs, alone = _pairs(first, second)
    return {
        "schema": COMPARISON_SCHEMA,
        "runs": [
            {"folder": name, **{key: report.get(key) for key in ("kind", "created", "command")}}
            for name, report in ((first_name, first), (second_name, second))
        ],
        "differs": list(_differs(first, second)),
        "models": [{"name": name, "rows": _rows(*pair, barred)} for name, pair in pairs.items()],
        "not_compared": [
            *({"what": group, "why": why} for group, why in barred.items()),
            *({"what": name, "why": f"only the {which} run has it"} for name, which in alone),
        ],
    }


def _pairs(
    first: Mapping[str, Any], second: Mapping[str, Any]
) -> tuple[dict[str, tuple[dict[str, Any], dict[str, Any]]], list[tuple[str, str]]]:
    """Networks of the same name, or the only two; and the names of the others with the run that has them."""
    ours, theirs = ({model["name"]: model for model in run["models"]} for run in (first, second))
    if len(ours) == len(theirs) == 1 and ours.keys() != theirs.keys():
        (one, model), (other, twin) = *ours.items(), *theirs.items()
        return {f"{one} and {other}": (model, twin)}, []
    both = {name: (ours[name], theirs[name]) for name in ours if name in theirs}
    alone = [(name, "first") for name in ours if name not in both]
    return both, alone + [(name, "second") for name in theirs if name not in both]


def _barred(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Groups of quantities that say nothing beside each other, and why."""
    images = [_images(run["images"]) for run in (first, second)]
    if images[0] != images[1]:
        why = f"other images: {images[0]} and {images[1]}"
        yield "accuracy", why
        yield "agreement", why
    machines = [str(run["environment"]["cpu"]) for run in (first, second)]
    if machines[0] != machines[1]:
        why = f"another machine: {machines[0]} and {machines[1]}"
        for group in ("latency", OTHER_ENGINES, "memory"):
            yield group, why


def _images(images: Mapping[str, Any]) -> str:
    """What tells images from others: the labels where there are any."""
    labels = images.get("annotations")
    of = f"labels {labels['sha256']}" if labels else f"folder {images['folder']}"
    return f"{images['count']} of {of}"


def _differs(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    ours, theirs = first["environment"], second["environment"]
    facts = {label: (ours.get(key), theirs.get(key)) for key, label in _MACHINE.items()}
    for name in sorted({*ours["packages"], *theirs["packages"]}):
        facts[name] = (ours["packages"].get(name), theirs["packages"].get(name))
    facts["images"] = _images(first["images"]), _images(second["images"])
    facts["other processes on the machine"] = _busy(first), _busy(second)
    for what, (one, other) in facts.items():
        if one != other:
            yield {"what": what, "first": one, "second": other}


def _busy(run: Mapping[str, Any]) -> str:
    """Whether somebody else used the CPUs while a network was timed."""
    about = [(model.get("latency") or {}).get("environment") or {} for model in run["models"]]
    return "many" if any(each.get("busy") for each in about) else "few or not told"


def _rows(
    first: Mapping[str, Any], second: Mapping[str, Any], barred: Mapping[str, str]
) -> list[dict[str, Any]]:
    ours, theirs = _quantities(first), _quantities(second)
    return [_row(key, ours[key], theirs[key]) for key in ours if key in theirs and key[0] not in barred]


def _row(key: Key, one: Quantity, other: Quantity) -> dict[str, Any]:
    change = round(other.value - one.value, _DIGITS)
    share = round(change / one.value, _DIGITS) if abs(one.value) > 1 / _LARGEST else None
    return {
        **dict(zip(("group", "what", "of"), key, strict=True)),
        "unit": one.unit,
        "first": one.value,
        "second": other.value,
        "change": change,
        "share": share,
        "verdict": _verdict(change, share, max(one.noise, other.noise), one.higher_is_better),
    }


def _verdict(change: float, share: float | None, noise: float, higher_is_better: bool) -> str:
    if not change:
        return "same"
    if noise and share is not None and abs(share) <= noise:
        return "within noise"
    return "better" if (change > 0) == higher_is_better else "worse"


def _quantities(model: Mapping[str, Any]) -> dict[Key, Quantity]:
    found = {}
    for source in (_accuracy, _agreement, _latency, _sizes, _cost):
        for key, quantity in source(model):
            if abs(quantity.value) <= _LARGEST:
                found[key] = quantity
    return found


def _accuracy(model: Mapping[str, Any]) -> Iterator[tuple[Key, Quantity]]:
    for stage, entry in model["accuracy"].items():
        for metric in ACCURACY:
            if entry and entry.get(metric) is not None:
                yield ("accuracy", metric, VARIANTS[stage]), Quantity("share", entry[metric], True)


def _agreement(model: Mapping[str, Any]) -> Iterator[tuple[Key, Quantity]]:
    for stage, entry in (model.get("agreement") or {}).items():
        for name, unit, higher in (("differing", "count", False), ("correlation", "number", True)):
            if entry and entry.get(name) is not None:
                label = {"differing": "integers that differ", "correlation": "correlation"}[name]
                yield ("agreement", label, VARIANTS[stage]), Quantity(unit, entry[name], higher)
    share = (model.get("lowering") or {}).get("proven_share")
    if share is not None:
        yield ("lowering", "proven channels", "integer file"), Quantity("share", share, True)


def _latency(model: Mapping[str, Any]) -> Iterator[tuple[Key, Quantity]]:
    document = model.get("latency") or {}
    where = f" on {document['device']}" if document.get("device") else ""
    for measured in document.get("measured") or []:
        of_all = measured.get("spread") or 0.0
        for label, entry in (measured.get("contenders") or {}).items():
            of = f"{label}, {measured.get('threads')} threads{where}"
            for name, told in (("median_ms", "median"), ("min_ms", "fastest run")):
                if entry.get(name) is not None:
                    noise = entry.get("spread") or of_all
                    group = "latency" if label == OURS else OTHER_ENGINES
                    yield (group, told, of), Quantity("ms", entry[name], False, noise)


def _sizes(model: Mapping[str, Any]) -> Iterator[tuple[Key, Quantity]]:
    for stage, entry in model["files"].items():
        if entry and stage in VARIANTS:
            yield ("size", "file", VARIANTS[stage]), Quantity("bytes", entry["bytes"], False)
    size = (model.get("weights") or {}).get("bytes")
    if size is not None:
        yield ("size", "weights", VARIANTS["program"]), Quantity("bytes", size, False)


def _cost(model: Mapping[str, Any]) -> Iterator[tuple[Key, Quantity]]:
    cost = model.get("cost") or {}
    if cost.get("peak_mb") is not None:
        yield ("memory", "at most", VARIANTS["program"]), Quantity("mb", cost["peak_mb"], False, 0.02)
    energy = (cost.get("energy_uj") or {}).get("total")
    if energy is not None:
        yield ("cost", "energy of the arithmetic", "integer file"), Quantity("uj", energy, False)
