"""Promises about a measurement that a CI can hold: `--max-ms` and `--max-ratio`."""

from __future__ import annotations

import math
from typing import Any

from aqd_deploy.bench.contenders import OURS
from aqd_deploy.bench.peers import choose_peers
from aqd_deploy.errors import AqdError, GateError


def parse_ratio(text: str, against: list[str]) -> tuple[str, float]:
    """("openvino", 0.55) of "openvino=0.55"; "openvino float=0.2" names one variant.

    Raises AqdError where it is not such a text, or names a peer that is unknown or not measured.
    """
    name, _, number = text.rpartition("=")
    try:
        limit = float(number)
    except ValueError:
        limit = math.nan
    if not name or not limit > 0 or math.isinf(limit):
        raise AqdError("this is not a ratio", received=repr(text), valid="PEER=R, for example openvino=0.55")
    peer = name.split()[0]
    choose_peers([peer])
    if peer not in against:
        raise AqdError(
            "the ratio is to a peer that is not measured",
            received=repr(text),
            valid=", ".join(against) or "the peers of --against",
            next_command=f"the same command with --against {','.join([*against, peer])}",
        )
    return name.strip(), limit


def check_gates(document: dict[str, Any], max_ms: float | None, max_ratios: list[tuple[str, float]]) -> None:
    """Raise GateError where a promise does not hold, or cannot be checked, for one number of threads.

    `max_ms` is a limit on our median; a ratio's is on the ratio of minima, which noise moves least: to the
    peer's faster INT8 variant, or to the contender that is named.
    """
    for measured in document["measured"]:
        where = f"with {measured['threads']} thread(s)"
        median = measured["contenders"][OURS]["median_ms"]
        if max_ms is not None and median > max_ms:
            raise GateError(
                f"the median latency {where} is above --max-ms", received=f"{median} ms", valid=f"{max_ms} ms"
            )
        for name, limit in max_ratios:
            label = measured["fastest_int8"].get(name, name)
            if label not in measured["ratios"]:
                raise GateError(
                    f"the ratio to {name} cannot be checked: it was not measured",
                    valid=", ".join([*measured["fastest_int8"], *measured["ratios"]]) or None,
                )
            ratio = measured["ratios"][label]["of_minima"]
            if ratio > limit:
                raise GateError(
                    f"the ratio of minima to {label} {where} is above --max-ratio",
                    received=ratio,
                    valid=f"at most {limit}",
                )
