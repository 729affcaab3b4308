"""Layer by layer: the roofline and the times of kernel calls, and the agreement of what they write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from aqd_deploy.reporting.page.blocks import Block, Chart, Section, Table, Text
from aqd_deploy.reporting.page.charts.roofline import roofline_chart
from aqd_deploy.reporting.page.figures import count, decibels, millions, percent, short, written

_NOTE = (
    "Codes that differ from the fake-quantized network in float64. Alone: computed from the integers that "
    "the layer reads, so what it adds itself; on the way: from the image on. The program beside the integer "
    "file. SNR in dB, a dash where nothing differs. Milliseconds are of the kernel call, which may compute "
    "several of these layers."
)


def layers(model: Mapping[str, Any], name: str) -> Section | None:
    """None where neither was measured. `name` tells the chart from others of the page."""
    blocks = [*_calls(model, name), *_agreement(model)]
    return Section("Layers", blocks) if blocks else None


def _calls(model: Mapping[str, Any], name: str) -> Iterator[Block]:
    measured: Mapping[str, Any] = next(iter((model.get("latency") or {}).get("measured") or []), {})
    calls, peaks = measured.get("layers") or [], measured.get("peak_gmacs_per_s") or {}
    if not calls:
        return
    rates = measured.get("read_gb_per_s") or {}
    drawing = roofline_chart(f"{name}-roofline", calls, peaks, rates)
    if drawing is not None:
        roofs = [(label, short(peak), "") for label, peak in peaks.items()]
        slopes = [(f"reading {label}", "", short(rate)) for label, rate in rates.items()]
        columns = ("at its best", "G MAC/s", "GB/s")
        yield Chart(drawing, Table(f"Measured roof, {model['name']}", columns, [*roofs, *slopes]))
    rows = [
        (call["name"], call.get("kernel", ""), short(call.get("ms")), percent(call.get("share_of_time")),
         millions(call.get("macs")), short(call.get("macs_per_byte")),
         short(call.get("effective_gmacs_per_s")), short(call.get("executed_gmacs_per_s")),
         percent(call.get("share_of_peak")), short(call.get("gb_per_s")), call.get("bound_by") or "")
        for call in calls
    ]  # fmt: skip
    headers = (
        "kernel call",
        "kernel",
        "ms",
        "time",
        "M MAC",
        "MAC a byte",
        "G MAC/s",
        "executed G MAC/s",
        "of the peak",
        "GB/s",
        "bound by",
    )
    yield Table(f"Kernel calls, {model['name']}", headers, rows, sortable=True)


def _agreement(model: Mapping[str, Any]) -> Iterator[Block]:
    rows = [
        (layer["name"], layer.get("operation", ""), layer.get("kernel") or "", short(layer.get("ms")),
         _bits(layer), millions(layer.get("macs")), percent(layer.get("proven_share")),
         *_difference(layer.get("alone")), *_difference(layer.get("accumulated")),
         count((layer.get("program") or {}).get("differing")))
        for layer in model.get("layers") or []
    ]  # fmt: skip
    if not rows:
        return
    headers = ("layer", "operation", "kernel", "ms", "bits", "M MAC", "proven", "differ alone", "SNR alone",
               "differ on the way", "SNR on the way", "program differs")  # fmt: skip
    yield Table(f"Layers, {model['name']}", headers, rows, sortable=True)
    images = (model.get("layer_agreement") or {}).get("images")
    yield Text(f"{_NOTE} Images that were compared: {written(count(images))}.")


def _bits(layer: Mapping[str, Any]) -> str:
    weights, codes = layer.get("weight_bits"), layer.get("activation_bits")
    return f"{weights}x{codes}" if weights and codes else ""


def _difference(entry: Mapping[str, Any] | None) -> tuple[Any, Any]:
    entry = entry or {}
    return count(entry.get("differing")), decibels(entry.get("snr_db"))
