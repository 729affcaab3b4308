"""Constants of requantizations, case by case, and how few thresholds are decided the slow way."""

import pytest
from island_agreement import assert_islands_agree
from qdq_graphs import mobilenet_v2, random_image
from small_lowerings import chain, nodes_of, operators, state_after

from aqd_deploy.errors import RangeError
from aqd_deploy.integer import staircase
from aqd_deploy.integer.reference import ReferenceRunner
from aqd_deploy.passes import solve_requantize
from aqd_deploy.passes.integer_operations import Requantize, SharedThreshold, Threshold
from aqd_deploy.passes.operations import Staircase
from aqd_deploy.passes.pipeline import lower


def few_bits(monkeypatch, bits):
    """Multipliers of `bits` bits only."""
    solve = solve_requantize.solve_requantize_channels
    monkeypatch.setattr(
        solve_requantize, "solve_requantize_channels", lambda s, **kw: solve(s, c_bits=bits, **kw)
    )


def quantized(bits):
    return lambda b, x: b.conv(b.quantize(b.relu(b.batch_norm(x, "mixed")), bits), 4, 4)


def test_case_1_constants_that_are_exact_in_every_channel():
    state = state_after("solve_requantize", chain(quantized(4)))
    (node,) = nodes_of(state, Requantize)
    assert all(node.op.solution.proven) and nodes_of(state, Threshold) == []
    assert any("proven in all 4 channels" in line for line in state.results[-1].changed)


def test_case_3_ties_of_an_average_are_one_list_of_thresholds():
    """A sum of four codes of the same step: quotients of ½ go to the even code."""

    def body(b, x):
        x = b.quantize(b.relu(x), 8, 0.05)
        x = b.node("AveragePool", [x], (4, 4, 4), kernel_shape=[2, 2], strides=[2, 2])
        return b.conv(b.quantize(x, 8, 0.05), 4, 4)

    qdq = chain(body)
    state = state_after("solve_requantize", qdq)
    (node,) = nodes_of(state, SharedThreshold)
    assert node.op.deviations == [0] * 4 and len(node.op.thresholds) == 255
    assert node.op.thresholds[:4].tolist() == [3, 6, 11, 14]
    assert_islands_agree(qdq)


def test_case_4_more_steps_get_the_closest_constants(monkeypatch):
    few_bits(monkeypatch, 4)
    state = state_after("solve_requantize", chain(quantized(8)))
    (node,) = nodes_of(state, Requantize)
    assert not all(node.op.solution.proven) and max(node.op.solution.deviations) > 0
    assert any("channels deviate" in line for line in state.results[-1].left_alone)
    assert type(node.op) is Requantize and not any(type(n.op) is Staircase for n in state.graph.nodes)


def test_closest_constants_that_leave_the_proven_interval_are_refused(monkeypatch):
    few_bits(monkeypatch, 4)
    state = state_after("move_scales", chain(quantized(8)))
    (node,) = nodes_of(state, Staircase)
    interval = state.graph.ranges[node.output]
    state.graph.ranges[node.output] = interval.clipped(100, 101)
    with pytest.raises(RangeError, match=f"closest constants of {node.label} leave"):
        solve_requantize.SolveRequantize()(state)


@pytest.mark.parametrize("bits", [4, 8])
def test_nearly_all_thresholds_of_a_large_network_are_decided_without_rationals(monkeypatch, bits):
    """17,848 channels: only the sums, whose thresholds are ties, ask exact arithmetic."""
    exact, asked = staircase.exact_thresholds, []

    def counted(form, quantizer, levels):
        asked.append(len(levels))
        return exact(form, quantizer, levels)

    monkeypatch.setattr(staircase, "exact_thresholds", counted)
    report = lower(mobilenet_v2(bits)).report
    assert report["requantized_channels"] == 17848
    assert report["proven"] >= 17848 - 792
    assert sum(asked) <= (2**bits - 1) * 792 + 20


def test_case_2_thresholds_replace_constants_that_would_not_be_exact(monkeypatch):
    """With multipliers of 3 bits only, 4-bit channels need thresholds; every integer stays the same."""

    def body(b, x):
        x = b.batch_norm(b.conv(b.quantize(b.relu(x), 4), 4, 4), "mixed")
        return b.conv(b.quantize(b.relu(x), 4), 4, 4)

    qdq = chain(body)
    constants = lower(qdq)
    few_bits(monkeypatch, 3)
    thresholds = lower(qdq)
    assert operators(constants.model).count("Threshold") == 0
    assert operators(thresholds.model).count("Threshold") == 2
    for entry in thresholds.report["requantizations"]:
        assert entry["proven"] == entry["channels"] and entry["deviations"] == 0
    for seed in range(5):
        image = {"image": random_image(qdq, seed)}
        expected, got = (
            ReferenceRunner(r.model, threads=1).run(image)["out"] for r in (constants, thresholds)
        )
        assert (expected == got).all()
