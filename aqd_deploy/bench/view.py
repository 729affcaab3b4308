"""The text view of a bench document, at most 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from aqd_deploy.bench.contenders import OURS
from aqd_deploy.bench.layers import ARITHMETIC, DATA_SHEET, MEMORY
from aqd_deploy.bench.rounds import NOISE_LIMIT
from aqd_deploy.tables import WIDTH, table

_NAME_WIDTH = 26


def text_view(document: dict[str, Any]) -> str:
    """Everything in the document that a person asks for, with what could not be measured at the end."""
    parts = [_head(document)]
    for measured in document["measured"]:
        parts.append(_latency(measured))
        if "layers" in measured:
            parts.append(_layers(measured))
    if document["memory"]:
        parts.append(_memory(document["memory"]))
    parts += _not_measured(document)
    return "\n\n".join(parts)


def _head(document: dict[str, Any]) -> str:
    where = document.get("device") or document["environment"]["cpu"]
    lines = _wrapped(
        f"{document['name'] or document['program']} on {where}: {document['rounds']} interleaved "
        f"rounds of {document['runs_per_round']} runs, batch 1, input {document['input']}"
    )
    for variant in document["forms"]:
        told = f"{variant['contender']}: {variant['what']}; {_instructions(variant['convolutions'])}"
        lines += textwrap.wrap(told, WIDTH, initial_indent="  ", subsequent_indent="    ")
    if document["environment"].get("busy"):
        lines += _wrapped(
            f"the machine was busy: other processes used {document['environment']['others_cpus']:.1f} of its "
            f"{document['environment']['cpus']} CPUs meanwhile; compare ratios, not milliseconds"
        )
    if document["forms"]:
        lines += _wrapped(
            f"minima, medians and quartiles of the rounds are ratios: {OURS}'s time by the other's"
        )
    return "\n".join(lines)


def _instructions(convolutions: Mapping[str, int] | None) -> str:
    """What matters of the kernels that a peer says it took: whether it used tiles, or bfloat16."""
    if convolutions is None:
        return "instructions not told"
    tiles, narrow = (
        sum(count for kernel, count in convolutions.items() if word in kernel) for word in ("amx", "bf16")
    )
    told = f"AMX in {tiles} of {sum(convolutions.values())} convolutions"
    return f"{told}, bfloat16 in {narrow}" if narrow else told


def _latency(measured: dict[str, Any]) -> str:
    count = measured["threads"]
    headers = [f"{count} thread{'s' if count > 1 else ''}", "min ms", "median ms", "p90 ms", "ours/it"]
    rows = []
    for label, entry in measured["contenders"].items():
        ratio = measured["ratios"].get(label)
        rows.append(
            [
                label,
                *(entry[key] for key in ("min_ms", "median_ms", "p90_ms")),
                "" if ratio is None else f"{ratio['of_minima']:.3f}",
                "" if ratio is None else f"{ratio['of_medians']:.3f}",
                "" if ratio is None else "{:.2f}-{:.2f}".format(*ratio["rounds_quartiles"][::2]),
            ]
        )
    headers[-1:] = ["minima", "medians", "quartiles"] if measured["ratios"] else ["", "", ""]
    if not measured["ratios"]:
        headers, rows = headers[:4], [row[:4] for row in rows]
    return "\n".join([table(headers, rows), *_ours(measured), *_verdicts(measured)])


def _ours(measured: dict[str, Any]) -> list[str]:
    """What the table has no room for, of the program alone."""
    entry = measured["contenders"][OURS]
    first = "" if entry["first_ms"] is None else f"first inference {entry['first_ms']:.1f} ms, "
    return _wrapped(
        f"{OURS}: {first}p99 {entry['p99_ms']:.1f} ms, {entry['images_per_s']:.1f} images a second, the "
        f"rounds differ by {100 * entry['spread']:.0f} %"
    )


def _verdicts(measured: dict[str, Any]) -> list[str]:
    """One line a peer's INT8, and one where noise is too large for it."""
    lines: list[str] = []
    for peer, label in measured["fastest_int8"].items():
        ratio = measured["ratios"][label]
        faster = 1 / ratio["of_minima"]
        lines += _wrapped(
            f"{OURS} takes {ratio['of_minima']:.2f} of the time of {peer}'s INT8 ({label}): "
            f"{faster:.2f} times as fast"
        )
    noisy = [label for label, ratio in measured["ratios"].items() if ratio["noisy"]]
    if noisy:
        lines += _wrapped(
            f"too noisy to tell within {100 * NOISE_LIMIT:.0f} %: {', '.join(noisy)} (minima, medians and "
            "rounds disagree); repeat on a quieter machine or with more --rounds"
        )
    elif not measured["ratios"] and measured["spread"] > NOISE_LIMIT:
        lines += _wrapped(f"noisy: the rounds differ by {100 * measured['spread']:.0f} %")
    return lines


def _layers(measured: dict[str, Any]) -> str:
    peaks = ", ".join(f"{name} {value:.0f}" for name, value in measured["peak_gmacs_per_s"].items())
    rates = ", ".join(f"{name} {value:.0f}" for name, value in measured["read_gb_per_s"].items())
    how = "" if DATA_SHEET in measured["peak_gmacs_per_s"] else "measured "
    bounds = [entry["bound_by"] for entry in measured["layers"]]
    reasons = list(dict.fromkeys(entry["why"] for entry in measured["layers"]))
    rows = [
        [
            shortened(entry["name"]),
            *_rates(entry),
            f"{_kernel(entry)} {_letter(reasons.index(entry['why']))}",
        ]
        for entry in measured["layers"]
    ]
    between = measured["between_layers"]
    rest = [_short_ms(between["ms"]), f"{100 * between['share_of_time']:.1f}", "-", "-", "-", "-"]
    rows.append(["between layers", *rest, ""])
    lines = [
        f"{how}peak: {peaks} G MAC/s",
        f"{how}reading: {rates} GB/s",
        *_wrapped(
            "eff: G MAC/s of the convolution; done: those executed, of which Winograd needs fewer and whole "
            "tiles have more, and their share of the peak; between layers: the fastest run without clocks "
            "minus all layers, each of which has a clock's few µs in it"
        ),
        *_wrapped(
            f"at its best, with all bytes in memory: {bounds.count(MEMORY)} of {len(bounds)} calls are "
            f"bound by memory, {bounds.count(ARITHMETIC)} by arithmetic"
        ),
        table(["layer", "ms", "time%", "G MAC", "eff", "done", "peak%", "kernel"], rows),
    ]
    for index, why in enumerate(reasons):
        lines += _wrapped(f"{_letter(index)}: {why}")
    totals = [
        [
            entry["family"],
            entry["layers"],
            *_rates(entry),
        ]
        for entry in measured["families"]
    ]
    totals.append(["between layers", "-", *rest])
    headers = ["family", "layers", "ms", "time%", "G MAC", "eff", "done", "peak%"]
    return "\n".join([*lines, "", table(headers, totals)])


def _rates(entry: dict[str, Any]) -> list[object]:
    """Cells that layers and families share."""
    return [
        _short_ms(entry["ms"]),
        f"{100 * entry['share_of_time']:.1f}",
        _giga(entry["macs"]),
        _whole(entry["effective_gmacs_per_s"]),
        _whole(entry["executed_gmacs_per_s"]),
        _percent(entry["share_of_peak"]),
    ]


def _memory(entries: list[dict[str, Any]]) -> str:
    rows = [
        [
            e["contender"],
            e["threads"],
            f"{e['peak_mb']:.0f}",
            *(e[k] for k in ("load_s", "first_s", "process_s")),
        ]
        for e in entries
    ]
    return table(["fresh process", "threads", "peak MB", "load s", "first run s", "process s"], rows)


def _not_measured(document: dict[str, Any]) -> list[str]:
    lines = [f"{peer}: {note}" for peer, note in document["notes"].items()]
    lines += [f"not measured: {entry['contender']}; {entry['reason']}" for entry in document["failed"]]
    lines += [
        f"not installed: {entry['peer']}; try: {entry['next_command']}" for entry in document["missing"]
    ]
    return ["\n".join(part for line in lines for part in _wrapped(line))] if lines else []


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ")


def shortened(name: str, width: int = _NAME_WIDTH) -> str:
    """What fits of a layer's name: without what all have in common, and rather its end than its beginning."""
    name = ".".join(part for part in name.removesuffix("_acc").split(".") if part != "conv")
    return name if len(name) <= width else "…" + name[-(width - 1) :]


def _short_ms(milliseconds: float) -> str:
    """With its microseconds: layers may take few."""
    return f"{milliseconds:.3f}"


def _giga(macs: int) -> str:
    return f"{macs / 1e9:.3f}" if macs else "-"


def _whole(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f}"


def _kernel(entry: dict[str, Any]) -> str:
    """The family without its instruction set, which the whole program has in common."""
    return str(entry["kernel"].rpartition("_")[0] if entry["macs"] else entry["operation"])


def _letter(index: int) -> str:
    return chr(ord("a") + index) if index < 26 else f"a{index - 25}"
