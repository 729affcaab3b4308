"""What was asked, what was reached, and whether the gates are met."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from aqd_deploy.bench.contenders import OURS
from aqd_deploy.reporting.document import VARIANTS, stage_labels
from aqd_deploy.reporting.page.blocks import Block, Section, Table, Verdict
from aqd_deploy.reporting.page.figures import change_in_points, count, points, ratio, short, written


def verdict(document: Mapping[str, Any]) -> Section:
    """The gates, and a sentence for each thing that a reader has to know of each network."""
    blocks: list[Block] = list(_gates(document.get("gates") or []))
    models = document["models"]
    if len(models) == 1:
        blocks += _of_model(models[0])
    else:
        blocks += [Section(model["name"], list(_of_model(model))) for model in models]
    return Section("Verdict", blocks)


def _gates(gates: list[dict[str, Any]]) -> Iterator[Block]:
    if not gates:
        yield Verdict(None, "No gate was asked for.")
        return
    met = all(gate["met"] for gate in gates)
    yield Verdict(met, "Every gate is met." if met else "Not every gate is met.")
    rows = [
        (gate["asked"], VARIANTS[gate["stage"]], short(gate["limit"]), short(gate["value"]),
         "met" if gate["met"] else "not met")
        for gate in gates
    ]  # fmt: skip
    yield Table("Gates", ("asked", "of", "limit", "reached", "verdict"), rows)


def _of_model(model: Mapping[str, Any]) -> Iterator[Verdict]:
    program = (model.get("agreement") or {}).get("program")
    if program is not None and program.get("differing") is not None:
        told = f"{written(count(program['differing']))} of {written(count(program.get('count')))} integers"
        yield Verdict(program["differing"] == 0, f"{told} of the program differ from the reference.")
    ladder = [step for step in model["summary"]["ladder"] if step["AP"] is not None]
    if ladder:
        yield Verdict(None, _accuracy(ladder, model["summary"]["drop"], stage_labels(model)))
    for measured in ((model.get("latency") or {}).get("measured") or [])[:1]:
        yield Verdict(None, _speed(measured))
    environment = (model.get("latency") or {}).get("environment") or {}
    if environment.get("busy"):
        others = written(short(environment.get("others_cpus")))
        yield Verdict(None, f"Other processes used {others} CPUs while it was timed.")


def _accuracy(ladder: list[Mapping[str, Any]], drop: float | None, labels: Mapping[str, str]) -> str:
    first, last = ladder[0], ladder[-1]
    told = f"AP {written(points(last['AP']))} points ({labels[last['stage']]})"
    if drop is None or first is last:
        return told + "."
    direction = "less" if drop > 0 else "more"
    size = written(change_in_points(drop))[1:]
    return f"{told}, {size} {direction} than {written(points(first['AP']))} ({labels[first['stage']]})."


def _speed(measured: Mapping[str, Any]) -> str:
    contenders, ratios = measured.get("contenders") or {}, measured.get("ratios") or {}
    ours = contenders.get(OURS) or {}
    median, fastest = (written(short(ours.get(key))) for key in ("median_ms", "min_ms"))
    told = [f"{median} ms an image (median), {fastest} ms (fastest run)"]
    for label, entry in ratios.items():
        noisy = ", too noisy to tell" if entry.get("noisy") else ""
        told.append(
            f"{written(ratio(entry.get('of_medians')))} of the time of {label} by medians, "
            f"{written(ratio(entry.get('of_minima')))} by fastest runs{noisy}"
        )
    return "; ".join(told) + "."
