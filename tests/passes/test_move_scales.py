"""Scales move down to quantizers and outputs, case by case."""

from fractions import Fraction

import numpy as np
import pytest
from qdq_graphs import plain_graph, random_graph
from small_lowerings import (
    assert_agrees,
    chain,
    initializers,
    manifest_of,
    nodes_of,
    operators,
    producer,
    state_after,
    state_before,
)

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.integer.rational import ChannelForm
from aqd_deploy.passes.contract import PassError
from aqd_deploy.passes.foreign_operations import Slice
from aqd_deploy.passes.graph import Node, Operation
from aqd_deploy.passes.integer_operations import ConvOdd, Max, SkipAdd
from aqd_deploy.passes.move_scales import MoveScales
from aqd_deploy.passes.operations import Concat, MaxPool, Resize, Scale, Staircase
from aqd_deploy.passes.pipeline import lower


def moved(*steps, numerics="exact"):
    return state_after("move_scales", chain(*steps), numerics)


def quantized(b, x):
    return b.conv(b.quantize(x, 4, 0.25), 4, 4)


def test_case_1_batch_norm_into_exact_numbers():
    """Eq. 5 for one channel, with σ kept as a square."""
    form = ChannelForm(Fraction(1, 4), Fraction(1, 8))
    behind = form.batch_normed(Fraction(3), Fraction(5), Fraction(1, 2), Fraction(2))
    assert behind == ChannelForm(
        Fraction(3, 4), Fraction(5), 3 * (Fraction(1, 8) - Fraction(1, 2)), Fraction(2)
    )
    state = moved(quantized)
    assert not any(node.op.name == "BatchNormalization" for node in state.graph.nodes)
    assert any("batch norm into the constants" in line for line in state.results[-1].changed)


def test_case_2_a_quantizer_reads_the_accumulators():
    state = moved(quantized)
    (staircase,) = nodes_of(state, Staircase)
    assert producer(state, staircase).op.name == "ConvOdd"
    assert (staircase.op.input_errors == 0).all()


def test_case_3_relu_of_a_stream_is_settled_first():
    state = moved(lambda b, x: b.relu(x), lambda b, x: b.add(quantized(b, x), x))
    (relu,) = nodes_of(state, Max)
    assert producer(state, relu).op.name in ("Bias", "MultiplyShift")
    assert state.graph.ranges[relu.output].bounds[0] == 0


def test_case_3_relu_of_what_is_never_negative_is_left_out_with_the_reason():
    state = moved(lambda b, x: b.relu(b.relu(x)), lambda b, x: b.add(quantized(b, x), x))
    assert len(nodes_of(state, Max)) == 1
    assert any("never negative" in line for line in state.results[-1].left_alone)


def test_case_4_resize_and_concat_run_on_the_integers():
    state = moved(lambda b, x: b.concat(b.upsample(x), b.upsample(x)), lambda b, x: b.add(x, x))
    for kind in (Resize, Concat):
        for node in nodes_of(state, kind):
            assert state.graph.ranges[node.output].storage() in ("int32", "int16", "int8", "uint8")
            assert node.output.endswith("_int")
    assert nodes_of(state, MaxPool) == [] and len(nodes_of(state, SkipAdd)) == 1


def test_case_6_outputs_have_a_scale_and_a_bound():
    state = moved(quantized)
    head = state.graph.heads["out"]
    assert len(head.forms) == 4 and all(form.a > 0 and not form.b0 for form in head.forms)
    assert head.error == 0
    assert any("settled already" in line for line in state.results[-1].left_alone)


def test_case_7_a_convolution_takes_codes_wherever_they_come_from():
    """Through a pool and a slice of dequantized codes."""

    def body(b, x):
        x = b.quantize(x, 8, 0.05)
        x = b.node("MaxPool", [x], (4, 4, 4), kernel_shape=[2, 2], strides=[2, 2])
        bounds = [b.constant("bound", np.array([v])) for v in (1, 4, 2)]
        return b.quantize(b.conv(b.node("Slice", [x, *bounds], (4, 3, 4)), 4, 8), 8, 0.1)

    qdq = chain(body)
    state = state_after("move_scales", qdq)
    last = nodes_of(state, ConvOdd)[-1]
    assert isinstance(producer(state, last).op, Slice)
    assert_agrees(qdq, lower(qdq))


class Gelu(Operation):
    """An operation that no case takes."""


def test_an_operation_without_a_case_is_named_with_those_that_have_one():
    state = state_before("move_scales", chain(quantized))
    scale = nodes_of(state, Scale)[-1]
    state.graph.nodes.append(Node(Gelu(), [scale.output], "y", "gelu_1"))
    with pytest.raises(
        UnsupportedModelError, match=r"gelu_1: no case of move_scales takes .* Gelu"
    ) as caught:
        MoveScales()(state)
    assert "BatchNormalization" in caught.value.valid and scale.output in caught.value.received


def test_a_tensor_without_an_interval_breaks_the_promise():
    state = moved(quantized)
    del state.graph.ranges[state.graph.nodes[-1].output]
    with pytest.raises(PassError, match="no interval within int32"):
        MoveScales().ensures(state)


def test_case_1_a_factor_goes_into_the_scale():
    def body(factor):
        def build(b, x):
            return b.scale(b.conv(b.quantize(x, 4, 0.25), 4, 8), factor)

        return build

    plain, scaled = (lower(chain(body(f))).model for f in (1.0, 3.0))
    assert operators(plain) == operators(scaled)
    ratio = (
        np.array(manifest_of(scaled)["outputs"]["out"]["scale"])
        / manifest_of(plain)["outputs"]["out"]["scale"]
    )
    # Both scales are float64 of exact rationals.
    assert ratio == pytest.approx(3.0, rel=1e-15)


def test_case_4_pooling_of_a_stream_runs_once_on_int32():
    def body(b, x):
        x = b.max_pool(b.relu(x))
        return b.add(b.conv(b.quantize(x, 4), 4, 4), x)

    qdq = chain(body)
    result = lower(qdq)
    assert operators(result.model).count("MaxPool_k3s2p1") == 1
    assert "MaxPool" not in operators(result.model)
    explained = next(p for p in result.report["passes"] if p["pass"] == "commute_quantizers")
    assert any("MaxPool" in line and "stream" in line for line in explained["left_alone"])
    assert_agrees(qdq, result)


@pytest.mark.parametrize("gamma", ["positive", "mixed", "zero", "tiny", "hard"])
@pytest.mark.parametrize("order", [0, 1])
def test_case_5_skip_adds_with_every_kind_of_gamma(gamma, order):
    def body(b, x):
        x = b.relu(x)
        left = b.batch_norm(b.conv(b.quantize(x, 4), 4, 4), gamma)
        right = b.batch_norm(b.conv(b.quantize(x, 4), 4, 4, kernel=1), gamma)
        y = b.relu(b.add(*((left, right) if order else (right, left))))
        return b.add(y, x) if order else b.add(x, y)

    qdq = chain(body, seed=16)
    result = lower(qdq)
    assert operators(result.model).count("SkipAdd") == 2
    assert all(entry["error_bound"] < 1.5 for entry in result.report["skip_adds"])
    assert_agrees(qdq, result)


@pytest.mark.parametrize("gamma", ["zero", "tiny", "hard"])
def test_case_6_heads_survive_every_gamma(gamma):
    """BN straight into an output: s = β/α would pass int32 where γ is tiny."""
    qdq = chain(lambda b, x: b.batch_norm(b.conv(b.quantize(x, 4), 4, 4), gamma), seed=12)
    result = lower(qdq)
    if gamma != "hard":
        assert "MultiplyShift" in operators(result.model)
        reason = {"zero": "constant in", "tiny": "coarser scale in"}[gamma]
        moves = next(p for p in result.report["passes"] if p["pass"] == "move_scales")
        assert any(reason in line for line in moves["changed"])
    assert_agrees(qdq, result)


def test_paper_numerics_rounds_every_bias_on_its_own():
    qdq = plain_graph(4, bits=4)
    exact, paper = lower(qdq), lower(qdq, numerics="paper")
    norms = sum(node.op_type == "BatchNormalization" for node in qdq.graph.node)
    settled = [entry for entry in paper.report["settled"] if entry["output"]]
    assert len(settled) >= norms
    assert len(exact.report["settled"]) < len(settled)
    assert manifest_of(paper.model)["lowering"]["numerics"] == "paper"


def test_power_of_two_numerics_has_multiplier_one():
    model = lower(random_graph(2, bits=4), numerics="power-of-two").model
    constants = initializers(model)
    for node in model.graph.node:
        if node.op_type == "Requantize":
            assert set(np.abs(constants[node.input[1]]).ravel().tolist()) <= {0, 1}
        if node.op_type == "SkipAdd":
            for name in (node.input[2], node.input[5]):
                values = np.abs(constants[name]).ravel()
                assert ((values & (values - 1)) == 0).all()


def test_integer_tensors_say_what_they_stand_for():
    """Also those that became outputs, under the outputs' names; forms are those of the heads."""
    state = state_after("move_scales", random_graph(2, bits=4))
    graph = state.graph
    made = {node.output for node in graph.nodes} | set(graph.inputs)
    assert set(graph.outputs) <= set(graph.meanings)
    assert set(graph.meanings) & made >= {node.output for node in nodes_of(state, SkipAdd)}
    for name in graph.outputs:
        meaning = graph.meanings[name]
        assert meaning.real == name
        assert meaning.forms == graph.heads[name].forms
        assert float(meaning.error.max()) == graph.heads[name].error
