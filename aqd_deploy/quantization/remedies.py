"""What to try for a layer that quantization damages: rules on its row, in plain sentences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Row = Mapping[str, Any]

GOOD_DB = 30.0
"""From here on a layer's own noise is a thousandth of its signal: nothing is advised."""


def remedies(row: Row) -> list[str]:
    """What fits of `RULES`, in their order."""
    return [told for applies, told in RULES if applies(row)]


def _noisy(row: Row) -> bool:
    snr = row["alone"]["snr_db"]
    return snr is not None and snr < GOOD_DB


def _side(row: Row, side: str, key: str) -> float:
    entry = row[side]
    return 0.0 if entry is None else float(entry[key])


def _by_weights(row: Row) -> float:
    """The share of the weights in the layer's own noise."""
    whole, part = row["alone"]["noise_ratio"], row["alone_with_float_input"]["noise_ratio"]
    return min(part / whole, 1.0) if whole and part is not None else 0.0


RULES: tuple[tuple[Callable[[Row], bool], str], ...] = (
    (
        lambda row: row["activation"] is None or row["weight"] is None,
        "a float layer: quantize --complete gives it quantizers",
    ),
    (
        lambda row: row["dead_channels"]["output"] > 0 and _side(row, "weight", "scales") == 1,
        "output channels whose weights are all 0: quantize without --per-tensor",
    ),
    (
        lambda row: row["dead_channels"]["output"] > 0 and _side(row, "weight", "scales") > 1,
        "output channels whose weights are all 0: more weight bits for this layer (overrides of --recipe)",
    ),
    (
        lambda row: row["dead_channels"]["input"] > 0,
        "input channels that are one code for every image: quantize --equalise",
    ),
    (
        lambda row: _noisy(row) and _side(row, "activation", "saturated") > 0.01,
        "more than 1 % of its input is cut off: quantize --method minmax, or --method mse",
    ),
    (
        lambda row: _noisy(row) and row["activation"] is not None and row["activation"]["used"] < 0.5,
        "its input uses less than half of the codes: quantize --method mse with images like those of use",
    ),
    (
        lambda row: (
            _noisy(row)
            and _by_weights(row) > 0.5
            and _side(row, "weight", "scales") == 1
            and (row["widest_output_channel"] or 0) > 4
        ),
        "output channels of very different weights share a scale: quantize without --per-tensor",
    ),
    (
        lambda row: _noisy(row) and row["constant_error"] > 0.3,
        "its error is mostly a constant a channel: quantize --bias-correction",
    ),
    (
        lambda row: _noisy(row) and _by_weights(row) > 0.5 and 0 < _side(row, "weight", "bits") <= 6,
        "its weights cost more than its input: quantize --adaptive-rounding 1000, or more weight bits here",
    ),
    (
        lambda row: _noisy(row) and _by_weights(row) <= 0.5 and 0 < _side(row, "activation", "bits") <= 6,
        "its input costs more than its weights: more activation bits here (overrides of --recipe)",
    ),
)
"""Options of `quantize`, the cheapest first."""
