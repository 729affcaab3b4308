"""The integer network against the fake-quantized one in exact rational arithmetic."""

import json
from fractions import Fraction

import numpy as np
import pytest
from exact_evaluation import ExactNetwork
from qdq_graphs import plain_graph, random_graph, random_image

from aqd_deploy.integer.reference import ReferenceRunner
from aqd_deploy.passes.pipeline import lower


def both(qdq, seed):
    """(report, manifest, exact network that has run, exact values, integer values), every tensor."""
    image = random_image(qdq, seed)
    result = lower(qdq)
    network = ExactNetwork(qdq)
    exact = network.run(image)
    integer = ReferenceRunner(result.model, threads=1, with_intermediates=True).run({"image": image})
    manifest = json.loads(result.model.metadata_props[0].value)
    return result.report, manifest, network, exact, integer


def decisions(exact, integer):
    """(name, exact levels, integer levels) of every quantizer that kept its name, in graph order."""
    return [
        (name, exact[name], integer[name].astype(np.int64))
        for name in exact
        if name in integer and exact[name].dtype == np.int64
    ]


def output_distance(name, manifest, exact, integer):
    """Largest |integer − exact / scale| of an output, in units of its scale."""
    scales = manifest["outputs"][name]["scale"]
    worst = 0.0
    for channel in range(exact[name].shape[1]):
        scale = Fraction(scales[channel % len(scales)])
        pairs = zip(integer[name][0, channel].ravel().tolist(), exact[name][0, channel].ravel(), strict=True)
        worst = max(worst, *(float(abs(i - x / scale)) for i, x in pairs))
    return worst


@pytest.mark.parametrize("seed", range(12))
def test_every_decision_without_skip_adds_is_the_exact_one(seed):
    """Proven: the levels are those of exact arithmetic, and the heads are within their recorded bound."""
    report, manifest, _, exact, integer = both(plain_graph(seed), seed)
    assert report["proven"] == report["requantized_channels"]
    found = decisions(exact, integer)
    assert len(found) >= 3
    for name, expected, levels in found:
        assert (expected == levels).all(), name
    for name, bound in report["output_errors"].items():
        # The manifest's scale is a float64 of an exact rational: 2^-52 of a value below 2^28.
        assert output_distance(name, manifest, exact, integer) <= bound + 1e-6


@pytest.mark.parametrize("seed", range(100, 112))
def test_decisions_behind_skip_adds_differ_only_within_the_recorded_error(seed):
    """A level may differ only where the exact value is that near to a tie; nothing behind it is compared."""
    report, manifest, network, exact, integer = both(random_graph(seed, bits=(2, 3, 4)[seed % 3]), seed)
    bound = Fraction(max(entry["input_error_steps"] for entry in report["requantizations"]))
    assert bound < Fraction(1, 100)
    equal = {entry["output"] for entry in report["requantizations"] if entry["equal_end_to_end"]}
    compared = [name for name, *_ in decisions(exact, integer) if name in equal]
    # These graphs have a stream in front of every quantizer.
    assert bool(compared) == (seed not in (101, 103, 106, 107, 108))
    assert all(
        (expected == levels).all() for name, expected, levels in decisions(exact, integer) if name in equal
    )
    for name, expected, levels in decisions(exact, integer):
        different = expected != levels
        if different.any():
            nearest_tie = [abs(x - round(2 * x - 1) / 2) for x in network.positions[name][different]]
            assert np.abs(expected - levels).max() == 1
            assert max(nearest_tie) <= bound
            return
    for name, error in report["output_errors"].items():
        assert output_distance(name, manifest, exact, integer) <= error + 1e-6


def test_negative_zero_and_tiny_gamma_in_one_graph_are_exact():
    seeds = [seed for seed in range(40) if _gamma_kinds(plain_graph(seed)) == {"negative", "zero", "tiny"}]
    assert seeds
    for seed in seeds[:3]:
        _, _, _, exact, integer = both(plain_graph(seed), seed)
        assert all((expected == levels).all() for _, expected, levels in decisions(exact, integer))


def _gamma_kinds(model):
    constants = {t.name: t for t in model.graph.initializer}
    kinds = set()
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            gamma = np.frombuffer(constants[node.input[1]].raw_data, np.float32)
            kinds |= {"negative"} if (gamma < -0.1).any() else set()
            kinds |= {"zero"} if (gamma == 0).any() else set()
            kinds |= {"tiny"} if ((gamma != 0) & (abs(gamma) < 1e-3)).any() else set()
    return kinds
