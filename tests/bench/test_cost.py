"""Energy and area of a network whose arithmetic is known, by hand from the table."""

from __future__ import annotations

import pytest
from small_models import ModelWriter

from aqd_deploy.bench.cost import cost_of
from aqd_deploy.bench.energy_table import ADD, MULTIPLY, product_of_codes, scaled_product
from aqd_deploy.integer.reader import read_graph


def network(bits=4, hi=15):
    """100 pixels of 2 channels of codes, and a 1 × 1 convolution to 5 channels: 1000 macs of 10 weights."""
    w = ModelWriter()
    codes = w.requantize(w.cast(w.image("image", 2, 10, 10)), 2, hi=hi)
    w.output(w.conv(codes, w.weight(5, 2, 1, bits), strides=[1, 1], dilations=[1, 1]), [1, 5, 10, 10])
    return read_graph(w.model({"ranges": {}}))


def test_four_bits_by_the_table_and_scaled():
    cost = cost_of(network())
    assert (cost.macs_by_bits, cost.products_by_bits, cost.adds_by_bits) == (
        {"4x4": 1000}, {"32": 200}, {"32": 600},
    )  # fmt: skip
    # pJ: 1000 products of 0.2, 1000 sums of 0.1; 200 products of 3.1, 600 sums of 0.1.
    assert cost.energy_uj.products_of_codes == pytest.approx(200e-6)
    assert cost.energy_uj.accumulation == pytest.approx(100e-6)
    assert cost.energy_uj.products == pytest.approx(620e-6)
    assert cost.energy_uj.sums == pytest.approx(60e-6)
    assert cost.energy_uj.total == pytest.approx(980e-6)
    # Ours: a product of 4 by 4 bits is a quarter of one of 8 by 8.
    assert cost.scaled_energy_uj.products_of_codes == pytest.approx(50e-6)
    assert cost.scaled_energy_uj.total == pytest.approx(830e-6)
    assert cost.float32_energy_uj == pytest.approx(4600e-6)
    assert cost.area_um2 == {
        "4x4": {"table": 282 + 137, "scaled": 282 / 4 + 137}, "float32": {"table": 7700 + 4184},
    }  # fmt: skip


def test_bytes_are_those_of_the_program_where_they_are_known():
    assert cost_of(network()).weights_bytes_by_bits == {"4": 5}
    assert cost_of(network(bits=3)).weights_bytes_by_bits == {"3": 4}
    stored = {"4": {"tensors": 1, "weights": 10, "bytes": 7}}
    told = cost_of(network(), stored=stored, file_bytes=99, peak_mb=1.5).told()
    assert (told["weights_bytes_by_bits"], told["file_bytes"], told["peak_mb"]) == ({"4": 7}, 99, 1.5)
    assert "estimate" in told["source"] and "our extrapolation" in told["notes"]["scaled"]


def test_prices_of_widths():
    assert product_of_codes(2, 8) == scaled_product(8, 8) == MULTIPLY["int8"]
    assert product_of_codes(8, 9) == scaled_product(8, 9) == MULTIPLY["int32"]
    assert scaled_product(2, 4).energy_pj == pytest.approx(0.025)


def test_the_table_is_that_of_the_paper():
    energies = {name: (ADD[name].energy_pj, MULTIPLY[name].energy_pj) for name in ADD}
    assert energies == {
        "float16": (0.4, 1.1),
        "float32": (0.9, 3.7),
        "int8": (0.03, 0.2),
        "int32": (0.1, 3.1),
    }
    areas = {name: (ADD[name].area_um2, MULTIPLY[name].area_um2) for name in ADD}
    assert areas == {
        "float16": (1360, 1640), "float32": (4184, 7700), "int8": (36, 282), "int32": (137, 3495),
    }  # fmt: skip
