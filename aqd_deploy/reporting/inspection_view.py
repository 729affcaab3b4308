"""What `inspect` found, for people: at most `LINES` lines. The whole is in the document itself (`--json`)."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aqd_deploy.passes.proven import sentences
from aqd_deploy.reporting.explanation import tail_sentence
from aqd_deploy.tables import bullets, key_values, table

LINES = 40
_ROWS = 12
_LONGEST = 240


def inspection_view(document: dict[str, Any]) -> str:
    """A summary of what `inspect_file` returned."""
    manifest = document.get("manifest", {})
    facts = {"file": document["file"], "kind": document["kind"], "size": _megabytes(document["bytes"])}
    if "files" in document:
        facts["files"] = ", ".join(document["files"])
    facts.update({**_model(document, manifest), **_program(manifest)})
    parts = [key_values(_shortened(facts)), _ports(document, manifest)]
    lowering = manifest.get("lowering")
    if isinstance(lowering, dict):
        parts.append(bullets(sentences(lowering)))
    parts.append(_operators(document))
    lines = "\n\n".join(part for part in parts if part).splitlines()
    more = ["", f"everything: aqd-deploy inspect {shlex.quote(document['file'])} --json"]
    if len(lines) + len(more) > LINES:
        lines = [*lines[: LINES - len(more) - 1], "…"]
    return "\n".join([*lines, *more])


def _model(document: dict[str, Any], manifest: Mapping[str, Any]) -> dict[str, object]:
    """What the file says of the network, whatever it holds it in."""
    facts: dict[str, object] = {}
    if manifest.get("name"):
        facts["name"] = manifest["name"]
    facts.update(document.get("config", {}))
    if "record" in document:
        facts["record"] = document["record"]
    detector = manifest.get("detector")
    if isinstance(detector, dict):
        classes = detector.get("classes")
        count = f", {len(classes)} classes" if isinstance(classes, list) else ""
        facts["detector"] = f"{detector.get('kind', 'unknown')}{count}"
    for key in ("architecture", "bits"):
        if isinstance(manifest.get(key), dict):
            facts[key] = manifest[key]
    facts["weights"] = _weights(document["weights"], manifest)
    if "float_tensors" in document:
        facts["float tensors inside"] = document["float_tensors"]["count"]
    tail = document.get("tail")
    if tail is not None:
        told = tail["problem"] if "problem" in tail else tail_sentence(tail)
        facts["tail"] = f"{tail['file']}: {told}"
    ranges = document.get("ranges")
    if ranges:
        widest = max(ranges, key=lambda name: ranges[name]["hi"] - ranges[name]["lo"])
        entry = ranges[widest]
        facts["integer tensors"] = f"{len(ranges)}, the widest {widest}: {entry['lo']} to {entry['hi']}"
    return facts


def _program(manifest: Mapping[str, Any]) -> dict[str, object]:
    """What compiling decided."""
    program = manifest.get("program")
    if not isinstance(program, dict):
        return {}
    target = program["target"]
    profile = f" ({target['profile']})" if target.get("profile", target["name"]) != target["name"] else ""
    kernels = f", {target['kernels']} kernels" if "kernels" in target else ""
    facts: dict[str, object]
    if "launches" in program:
        facts = _launches(program)
    else:
        facts = {
            "target": f"{target['name']}{profile}: {target['architecture']} {target.get('cpu', '')}{kernels}",
            "needs of a CPU": " ".join(target["features"]) or "nothing beside the architecture",
            "threads": program.get("threads"),
        }
    memory, tuning = program.get("memory", {}), program.get("tuning", {})
    if "bytes" in memory:
        scratch = memory.get("scratch_bytes")
        more = "" if scratch is None else f", and {_megabytes(scratch)} for kernels"
        facts["memory of a run"] = f"{_megabytes(memory['bytes'])}{more}"
    if {"task", "shape", "default"} <= set(tuning):
        tuned = tuning["task"] + tuning["shape"]
        facts["tuned"] = f"{tuned} of {tuned + tuning['default']} convolutions ({tuning.get('records')})"
    facts["made by"] = f"aqd-deploy {program.get('aqd_deploy_version', '?')}, TVM {program['tvm_version']}"
    return facts


def _launches(program: Mapping[str, Any]) -> dict[str, object]:
    """What a program for a card has in their place."""
    section, target = program["launches"], program["target"]
    code = f"{len(section['functions'])} kernels, {_megabytes(section['code_bytes'])}"
    spilled = sum(each["spilled_bytes"] > 0 for each in section.get("assembler", []))
    return {
        "target": f"{target['name']}: a card, {target['card']}",
        "images of a run": section["images"],
        "cubin": f"{code} by CUDA {target['toolkit']}, of which {spilled} spill registers",
        "launches": f"{len(section['prepare'])} when it is loaded, {len(section['run'])} a run",
    }


def _weights(weights: dict[str, Any], manifest: Mapping[str, Any]) -> str:
    """Their number, and of what; of a program also their bytes, for each bit width and when expanded."""
    told = f"{weights['count']:,}"
    if weights.get("bytes_per_weight") is None:
        kinds = (f"{bits} bits" if bits.isdigit() else bits for bits in weights.get("by_bits", {}))
        return f"{told} ({', '.join(kinds)})" if weights.get("by_bits") else told
    widths = (f"{bits} bits: {entry['weights']:,}, {entry['bytes_per_weight']:.4g} bytes each"
              for bits, entry in weights["by_bits"].items())  # fmt: skip
    expanded = manifest["program"]["weights"].get("expanded_bytes")
    more = f", {_megabytes(expanded)} when expanded" if expanded is not None else ""
    return f"{told} in {_megabytes(weights['bytes'])} ({'; '.join(widths)}){more}"


def _operators(document: dict[str, Any]) -> str:
    operators = document.get("operators")
    return table(["operator", "nodes"], _first(list(operators.items()))) if operators else ""


def _ports(document: dict[str, Any], manifest: Mapping[str, Any]) -> str:
    """Inputs and outputs; those of one dtype whose names begin alike (`cls_p3` to `cls_p7`) on one line."""
    source = document if "inputs" in document else manifest.get("program", {})
    rows: list[list[object]] = []
    for side in ("inputs", "outputs"):
        groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for value in source.get(side, []):
            groups.setdefault((str(value["name"]).rpartition("_")[0], value["dtype"]), []).append(value)
        for (_, dtype), values in groups.items():
            rows.append([side, _span([str(value["name"]) for value in values]), dtype,
                         _span([_shape(value) for value in values])])  # fmt: skip
    return table(["", "name", "dtype", "shape"], _first(rows)) if rows else ""


def _span(texts: list[str]) -> str:
    return texts[0] if texts[0] == texts[-1] else f"{texts[0]} … {texts[-1]}"


def _shape(value: Mapping[str, Any]) -> str:
    return "x".join(str(size) if size is not None else "?" for size in value["shape"])


def _first(rows: Sequence[Sequence[object]]) -> Iterable[Sequence[object]]:
    """The first rows, and how many more there are."""
    if len(rows) <= _ROWS:
        return rows
    return [*rows[: _ROWS - 1], [f"and {len(rows) - _ROWS + 1} more", *([""] * (len(rows[0]) - 1))]]


def _shortened(facts: Mapping[str, object]) -> dict[str, object]:
    """Values that may be of any length (names, notes of training), cut."""
    kept: dict[str, object] = {}
    for key, value in facts.items():
        told = key_values({"": value}, 1 << 30).strip()
        kept[key] = told if len(told) <= _LONGEST else f"{told[:_LONGEST]}…"
    return kept


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.3f} MB"
