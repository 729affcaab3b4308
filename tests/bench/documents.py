"""A bench document with two peers, as `measure.bench` returns it."""

from __future__ import annotations

from typing import Any

STATISTICS = {
    "first_ms": 61.0,
    "min_ms": 40.0,
    "median_ms": 42.0,
    "p90_ms": 50.0,
    "p99_ms": 55.0,
    "images_per_s": 23.81,
    "spread": 0.02,
    "rounds_ms": [40.0, 41.0],
}


def ratio(minima: float, medians: float | None = None, noisy: bool = False) -> dict[str, Any]:
    middle = minima if medians is None else medians
    quartiles = [round(middle * factor, 4) for factor in (0.95, 1, 1.05)]
    return {"of_minima": minima, "of_medians": middle, "rounds_quartiles": quartiles, "noisy": noisy}


def measured(threads: int, **ratios: dict[str, Any]) -> dict[str, Any]:
    labels = {name.replace("_", " "): entry for name, entry in ratios.items()}
    return {
        "threads": threads,
        "contenders": {"aqd-deploy": STATISTICS, **dict.fromkeys(labels, STATISTICS)},
        "spread": 0.02,
        "ratios": labels,
        "fastest_int8": {"openvino": "openvino int8 nncf"} if "openvino int8 nncf" in labels else {},
    }


def document(*entries: dict[str, Any], **changed: Any) -> dict[str, Any]:
    labels = list(entries[0]["ratios"])
    return {
        "schema": 3,
        "program": "m.so",
        "name": "retinanet_r18_4bit",
        "environment": {"cpu": "Some CPU with a Long Name @ 2.50GHz", "packages": {}},
        "input": "textures",
        "rounds": 10,
        "runs_per_round": 3,
        "forms": [
            {
                "contender": label,
                "peer": label.split()[0],
                "form": label.split(maxsplit=1)[1],
                "int8": "int8" in label,
                "what": "how it is made",
                "convolutions": None,
            }
            for label in labels
        ],
        "notes": {},
        "failed": [],
        "missing": [],
        "measured": list(entries),
        "memory": None,
        **changed,
    }
