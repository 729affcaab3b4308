"""The layer table's arithmetic."""

from __future__ import annotations

import pytest

from aqd_deploy.bench.layers import Roof, between_layers, family_totals, layer_table

ROOF = Roof(100e9, 10e9)
# All kernels at their best, and 9 µs.
WHOLE = 2.5e-4
NOTHING = "no multiply-accumulates"
LAYERS = [
    {"name": "image", "operation": "to_nhwc", "kernel": "loops", "why": NOTHING, "macs": 0},
    {
        "name": "conv1",
        "operation": "conv",
        "kernel": "winograd_vnni",
        "why": "exact",
        "output": [4, 4, 8],
        "macs": 9_000_000,
        "executed_macs": 4_000_000,
        "weight_bits": 4,
    },
    {"name": "conv2", "operation": "conv", "kernel": "blocked_vnni", "why": "tiles", "macs": 1_000_000},
    {"name": "pool", "operation": "maxpool", "kernel": "loops", "why": NOTHING, "macs": 0},
]
PROFILES = [
    [("image", 1e-6), ("conv1", 2e-4), ("conv2", 1e-4), ("pool", 5e-5)],
    [("image", 9e-6), ("conv1", 1e-4), ("conv2", 1e-4), ("pool", 4e-5)],
]


def test_the_best_of_all_profiles_counts_and_rates_follow():
    table = layer_table(PROFILES, LAYERS, ROOF, WHOLE)
    assert [entry["name"] for entry in table] == ["image", "conv1", "conv2", "pool"]
    assert [entry["ms"] for entry in table] == [0.001, 0.1, 0.1, 0.04]
    conv1 = table[1]
    # Winograd does the work of 9 M in 4 M.
    assert conv1["effective_gmacs_per_s"] == pytest.approx(90)
    assert conv1["executed_gmacs_per_s"] == pytest.approx(40)
    assert conv1["share_of_peak"] == pytest.approx(0.4)
    assert (conv1["kernel"], conv1["why"], conv1["weight_bits"]) == ("winograd_vnni", "exact", 4)
    assert [entry["share_of_time"] for entry in table] == [0.004, 0.4, 0.4, 0.16]


@pytest.mark.parametrize(("whole", "between"), [(WHOLE, (0.009, 0.036)), (2e-4, (-0.041, -0.205))])
def test_between_the_layers_is_what_is_left_of_a_run(whole, between):
    table = layer_table(PROFILES, LAYERS, ROOF, whole)
    rest = between_layers(table, whole)
    assert (rest["ms"], rest["share_of_time"]) == pytest.approx(between)
    shares = sum(entry["share_of_time"] for entry in table) + rest["share_of_time"]
    assert shares == pytest.approx(1, abs=1e-3)


def test_without_a_count_of_executed_products_all_are():
    conv2 = layer_table(PROFILES, LAYERS, ROOF, WHOLE)[2]
    assert conv2["executed_macs"] == conv2["macs"] == 1_000_000
    assert conv2["share_of_peak"] == pytest.approx(0.1)


def test_what_multiplies_nothing_has_no_rate():
    pool = layer_table(PROFILES, LAYERS, ROOF, WHOLE)[-1]
    assert pool["share_of_peak"] is None and pool["effective_gmacs_per_s"] is None


def test_a_convolution_and_its_reordered_output_may_have_one_name():
    layers = [{**LAYERS[2], "name": "box"}, {**LAYERS[0], "name": "box", "operation": "to_nchw"}]
    profiles = [[("box", 1e-4), ("box", 3e-4)], [("box", 2e-4), ("box", 2e-4)]]
    table = layer_table(profiles, layers, ROOF, WHOLE)
    assert [(entry["operation"], entry["ms"]) for entry in table] == [("conv", 0.1), ("to_nchw", 0.2)]
    assert table[0]["share_of_peak"] and table[1]["share_of_peak"] is None


def test_totals_by_family():
    totals = family_totals(layer_table(PROFILES, LAYERS, ROOF, WHOLE), ROOF)
    assert [entry["family"] for entry in totals] == ["winograd_vnni", "blocked_vnni", "maxpool", "to_nhwc"]
    assert totals[0]["layers"] == 1 and totals[0]["executed_macs"] == 4_000_000
    assert totals[2]["share_of_peak"] is None
    assert sum(entry["ms"] for entry in totals) == pytest.approx(0.241)


@pytest.mark.parametrize(
    ("macs", "moved", "bound"),
    # The two lines meet at 10 multiply-accumulates a byte.
    [(99, 10, "memory"), (101, 10, "arithmetic"), (0, 10, "memory"), (10, 0, "arithmetic"), (0, 0, None)],
)
def test_what_bounds_a_call(macs, moved, bound):
    assert ROOF.bound_by(macs, moved) == bound


def test_bytes_are_weights_inputs_and_outputs_and_products_those_that_are_executed():
    layer = {**LAYERS[1], "weight_bytes": 200_000, "input_bytes": 150_000, "output_bytes": 50_000}
    (entry,) = layer_table([[("conv1", 1e-4)]], [layer], ROOF, WHOLE)
    assert entry["bytes"] == 400_000 and entry["macs_per_byte"] == pytest.approx(10)
    assert entry["gb_per_s"] == pytest.approx(4) and entry["bound_by"] == "arithmetic"
    (entry,) = layer_table([[("conv1", 1e-4)]], [{**layer, "input_bytes": 150_001}], ROOF, WHOLE)
    assert entry["bound_by"] == "memory"
