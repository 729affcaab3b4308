"""The document of a measurement (docs/report.md), wherever it ran: here beside peers, or on a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aqd_deploy.bench.contenders import OURS
from aqd_deploy.bench.rounds import ratios, spread, statistics

BENCH_SCHEMA = 3


def bench_document(
    program: Path,
    manifest: Mapping[str, Any],
    *,
    environment: Mapping[str, Any],
    measured: Sequence[Mapping[str, Any]],
    rounds: int,
    runs: int,
    input_is: str = "random",
    device: str | None = None,
    variants: Sequence[Mapping[str, Any]] = (),
    notes: Mapping[str, str] | None = None,
    failed: Sequence[Mapping[str, str]] = (),
    missing: Sequence[Mapping[str, str]] = (),
    memory: Sequence[Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """A JSON-able document of one run. `measured` has an entry (`measured_with`) for each number of threads,
    `variants` those of the peers; without `device` it ran on this machine.
    """
    return {
        "schema": BENCH_SCHEMA,
        "program": str(program),
        "name": manifest.get("name"),
        **({} if device is None else {"device": device}),
        "environment": environment,
        "input": input_is,
        "rounds": rounds,
        "runs_per_round": runs,
        "forms": list(variants),
        "notes": notes or {},
        "failed": list(failed),
        "missing": list(missing),
        "measured": list(measured),
        "memory": memory,
    }


def measured_with(
    threads: int,
    ours: np.ndarray,
    others: Mapping[str, np.ndarray] | None = None,
    fastest_int8: Mapping[str, str] | None = None,
    first: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """What was measured with one number of threads: seconds float64 [rounds, runs], ours and the `others`' by
    label; `fastest_int8` is the label of each peer's fastest INT8 network, `first` the seconds of the very
    first runs, by label.
    """
    against = others or {}
    return {
        "threads": threads,
        "contenders": {
            label: statistics(seconds, (first or {}).get(label))
            for label, seconds in ({OURS: ours} | dict(against)).items()
        },
        "spread": spread(ours),
        "ratios": {label: ratios(ours, seconds) for label, seconds in against.items()},
        "fastest_int8": dict(fastest_int8 or {}),
    }
