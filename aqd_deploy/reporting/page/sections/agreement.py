"""How far the stages of a network are apart, what lowering proved, and the modes of its numerics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from aqd_deploy.passes.proven import sentences
from aqd_deploy.reporting.document import VARIANTS
from aqd_deploy.reporting.page.blocks import Block, Items, More, Section, Table, Text
from aqd_deploy.reporting.page.figures import correlation, count, percent, points, short, written

_NOTE = (
    "Outputs of all heads over the images of this report: real numbers beside those of the fake-quantized "
    "network, integers of the program beside those of the reference."
)


def agreement(model: Mapping[str, Any]) -> Section | None:
    """None where nothing was compared."""
    name = model["name"]
    blocks = [*_stages(model, name), *_lowering(model), *_numerics(model, name), *_skip_adds(model, name)]
    return Section("Agreement", blocks) if blocks else None


def _stages(model: Mapping[str, Any], name: str) -> Iterator[Block]:
    stages = model.get("agreement") or {}
    rows = [
        (VARIANTS[stage], correlation(entry.get("correlation")), short(entry.get("max_abs")),
         short(entry.get("mean_abs")), count(entry.get("differing")), count(entry.get("count")),
         short(entry.get("largest")))
        for stage in VARIANTS if (entry := stages.get(stage))
    ]  # fmt: skip
    if rows:
        headers = ("stage", "correlation", "largest difference", "mean difference", "integers that differ",
                   "of", "by at most")  # fmt: skip
        yield Table(f"Agreement of the outputs, {name}", headers, rows)
        yield Text(_NOTE)


def _lowering(model: Mapping[str, Any]) -> Iterator[Block]:
    lowering = model.get("lowering")
    if not lowering:
        return
    told = [f"{sentence[0].upper()}{sentence[1:]}." for sentence in sentences(lowering)]
    adds, error = lowering.get("skip_adds"), lowering.get("largest_skip_add_error")
    if adds is not None and error is not None:
        most = written(short(error))
        told.append(f"{written(count(adds))} skip-adds, each adds an error of at most {most} integer steps.")
    floats = lowering.get("float_tensors")
    if floats is not None:
        told.append(f"Float tensors between input and heads: {written(count(floats))}.")
    yield Items([f"Numerics: {lowering.get('numerics')}.", *told])


def _numerics(model: Mapping[str, Any], name: str) -> Iterator[Block]:
    modes = {mode: entry for mode, entry in (model.get("numerics") or {}).items() if entry}
    rows = [
        (mode, points((entry.get("accuracy") or {}).get("AP")),
         correlation((entry.get("agreement") or {}).get("correlation")),
         count((entry.get("differing_codes") or {}).get("differing")),
         count((entry.get("differing_codes") or {}).get("count")), percent(entry.get("proven_share")))
        for mode, entry in modes.items()
    ]  # fmt: skip
    if rows:
        headers = ("numerics", "AP", "correlation", "codes that differ", "of", "proven channels")
        yield Table(f"Modes of the numerics side by side, {name}", headers, rows)
        yield Text("Each beside the fake-quantized network: outputs over all images, codes over some.")
        refused = [f"{mode}: {entry['refused']}" for mode, entry in modes.items() if entry.get("refused")]
        if refused:
            yield Items(refused)


def _skip_adds(model: Mapping[str, Any], name: str) -> Iterator[Block]:
    rows = [
        (entry["name"], short(entry.get("bound_steps")), short(entry.get("own_bound_steps")),
         short(entry.get("seen_steps")))
        for entry in model.get("skip_adds") or []
    ]  # fmt: skip
    if rows:
        headers = ("skip-add", "proven bound", "of this one alone", "largest seen")
        yield More("Skip-adds", [
            Table(f"Errors of skip-adds in integer steps, {name}", headers, rows, sortable=True)
        ])  # fmt: skip
