"""What quantization does to each layer, for people: the worst layers, and what to try."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_lowercase
from typing import Any

from aqd_deploy.tables import bullets, lines_of, table

ROWS = 20
_HEADERS = ("layer", "bits", "alone", "whole", "cosine", "cut", "used", "dead", "try")
_COLUMNS = (
    "bits: of the weights/of the input, - for floats",
    "alone, whole: signal-to-noise in dB with this layer quantized alone, and with all of them",
    "cosine: with all of them quantized",
    "cut, used: shares of the input's codes at an end of their range, and of the range that occurs",
    "dead: channels of the input and of the output that quantization silences",
)


def comparison_view(document: Mapping[str, Any]) -> str:
    """`quantization.compare.compare`'s document in at most `ROWS` rows of 80 columns."""
    layers = document["layers"]
    shown = layers[:ROWS]
    told = list(dict.fromkeys(sentence for layer in shown for sentence in layer["remedies"]))
    letters = {sentence: ascii_lowercase[index] for index, sentence in enumerate(told)}
    head = [f"{_matched(document)}; {_count(document['images'], 'image')}; the most damaged first"]
    if len(layers) > ROWS:
        head.append(f"{ROWS} of {len(layers)} layers; all of them: --json")
    rows = [_row(layer, "".join(letters[each] for each in layer["remedies"])) for layer in shown]
    parts = [bullets(head), table(_HEADERS, rows), bullets(_COLUMNS)]
    if told:
        parts.append("try\n" + lines_of(f"{letters[sentence]}  {sentence}" for sentence in told))
    outputs = [(name, _db(each), _cosine(each)) for name, each in document["outputs"].items()]
    parts += [table(("output", "whole", "cosine"), outputs), lines_of([_integers(document["integers"])])]
    return "\n\n".join(part for part in parts if part)


def _row(layer: Mapping[str, Any], tried: str) -> Sequence[object]:
    weight, activation, dead = layer["weight"], layer["activation"], layer["dead_channels"]
    bits = "/".join("-" if side is None else str(side["bits"]) for side in (weight, activation))
    return (
        _short(layer["name"]),
        bits,
        _db(layer["alone"]),
        _db(layer["accumulated"]),
        _cosine(layer["accumulated"]),
        "-" if activation is None else f"{activation['saturated']:.1%}",
        "-" if activation is None else f"{activation['used']:.0%}",
        f"{dead['input']}/{dead['output']}",
        tried or "-",
    )


def _short(name: str, most: int = 24) -> str:
    """The end of a name, which tells it from others."""
    return name if len(name) <= most else f"…{name[1 - most :]}"


def _db(noise: Mapping[str, Any]) -> str:
    return "exact" if noise["snr_db"] is None else f"{noise['snr_db']:.1f}"


def _cosine(noise: Mapping[str, Any]) -> str:
    return "-" if noise["cosine"] is None else f"{noise['cosine']:.4f}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _matched(document: Mapping[str, Any]) -> str:
    found = document["matched"]
    told = f"{_count(found['by_name'] + found['by_order'], 'layer')} of both files"
    if found["by_order"]:
        told += f", {found['by_order']} of them matched by order and shape, the others by name"
    if found["unmatched"]:
        told += f"; {len(found['unmatched'])} are not in the float file: {', '.join(found['unmatched'][:3])}"
    return told


def _integers(found: Mapping[str, Any] | None) -> str:
    """The fake-quantized numbers beside the integers."""
    if found is None:
        return ""
    if "refused" in found:
        return f"no integers to compare with: {found['refused']}"
    if not found["differing"]:
        return f"integers: the {found['count']} codes that layers read are those of the fake-quantized file"
    return (
        f"integers: {found['differing']} of {found['count']} codes that layers read are others than in the "
        f"fake-quantized file, which is computed in float32, by at most {_count(found['most_steps'], 'step')}"
    )
