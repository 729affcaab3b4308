"""What a network costs beside time: bytes, arithmetic by bit width, and an estimate of energy and area.

Arithmetic is counted from the integer file, for one image. Energy is that of the arithmetic alone, by the
table in `energy_table`: memory traffic, which real chips spend most on, has no row there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from aqd_deploy.bench.energy_table import ADD, MULTIPLY, SOURCE, Price, product_of_codes, scaled_product
from aqd_deploy.integer.counts import by_bits, node_counts
from aqd_deploy.integer.graph import Graph

_PJ_IN_UJ = 1e6
_ACCUMULATOR = ADD["int32"]
_Prices = Callable[[int, int], Price]

NOTES = {
    "table": "products of codes at the price of the table's 8-bit row, whatever fewer bits they have: an "
    "upper bound",
    "scaled": "our extrapolation, not in the table: a product of w by x bits at w·x/64 of the 8-bit row",
    "counted": "products and sums of int32 at the table's 32-bit rows; memory traffic is not counted",
}


@dataclass(frozen=True)
class Energy:
    """µJ an image: products of codes, their accumulation in int32, products and sums of int32
    (multiply-shifts, skip-adds, comparisons), and all of it.
    """

    products_of_codes: float
    accumulation: float
    products: float
    sums: float
    total: float


@dataclass(frozen=True)
class Cost:
    """`weights_bytes_by_bits` as stored in the program, else as the integer file's weights would be packed;
    `macs_by_bits` by "weight bits x activation bits"; `products_by_bits` and `adds_by_bits` of what is not a
    convolution; `file_bytes` and `peak_mb` (largest resident set of a fresh process) None where not known.
    Energy by the table alone, scaled, and of as many multiply-accumulates in float32; area in µm² of one
    multiply-accumulate unit of each kind.
    """

    file_bytes: int | None
    weights_bytes_by_bits: dict[str, int]
    macs_by_bits: dict[str, int]
    products_by_bits: dict[str, int]
    adds_by_bits: dict[str, int]
    peak_mb: float | None
    energy_uj: Energy
    scaled_energy_uj: Energy
    float32_energy_uj: float
    area_um2: dict[str, dict[str, float]]

    def told(self) -> dict[str, Any]:
        """The section `cost` of the report."""
        return {**asdict(self), "source": SOURCE, "notes": dict(NOTES)}


def cost_of(
    graph: Graph,
    *,
    stored: Mapping[str, Mapping[str, int]] | None = None,
    file_bytes: int | None = None,
    peak_mb: float | None = None,
) -> Cost:
    """The cost of an integer file (`read_graph`). `stored` is `weights.by_bits` of a program's manifest."""
    totals = by_bits(node_counts(graph))
    macs = totals["macs"]
    packed = {bits: math.ceil(int(bits) * count / 8) for bits, count in totals["weights"].items()}
    in_program = {bits: int(entry["bytes"]) for bits, entry in (stored or {}).items()}
    others = sum(totals["products"].values()), sum(totals["sums"].values())
    float32 = sum(macs.values()) * (MULTIPLY["float32"].energy_pj + ADD["float32"].energy_pj)
    return Cost(
        file_bytes,
        in_program or packed,
        macs,
        totals["products"],
        totals["sums"],
        peak_mb,
        _energy(macs, *others, product_of_codes),
        _energy(macs, *others, scaled_product),
        _micro(float32),
        _areas(macs),
    )


def _energy(macs: Mapping[str, int], products: int, sums: int, price: _Prices) -> Energy:
    of_codes = sum(count * price(*_bits(key)).energy_pj for key, count in macs.items())
    accumulation = sum(macs.values()) * _ACCUMULATOR.energy_pj
    wide = products * MULTIPLY["int32"].energy_pj
    added = sums * ADD["int32"].energy_pj
    total = of_codes + accumulation + wide + added
    return Energy(_micro(of_codes), _micro(accumulation), _micro(wide), _micro(added), _micro(total))


def _areas(macs: Mapping[str, int]) -> dict[str, dict[str, float]]:
    """Of a multiplier and an int32 adder for each pair of widths; of float32 for comparison."""
    found = {
        key: {
            "table": product_of_codes(*_bits(key)).area_um2 + _ACCUMULATOR.area_um2,
            "scaled": round(scaled_product(*_bits(key)).area_um2 + _ACCUMULATOR.area_um2, 3),
        }
        for key in macs
    }
    return {**found, "float32": {"table": MULTIPLY["float32"].area_um2 + ADD["float32"].area_um2}}


def _bits(key: str) -> tuple[int, int]:
    weight, activation = key.split("x")
    return int(weight), int(activation)


def _micro(picojoules: float) -> float:
    return round(picojoules / _PJ_IN_UJ, 6)
