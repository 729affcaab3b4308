"""Quantizers move up, case by case, and why some operations stay in front."""

import numpy as np
import pytest
from small_lowerings import assert_agrees, attribute, chain, nodes_of, operators, producer, state_after

from aqd_deploy.passes.operations import Concat, MaxPool, Quantize, Relu, Resize
from aqd_deploy.passes.pipeline import lower


def commuted(*steps):
    return state_after("commute_quantizers", chain(*steps))


def quantized(b, x):
    return b.conv(b.quantize(x, 4, 0.25), 4, 4)


def test_case_1_both_ends_of_a_clip():
    """A Clip to [0, 2] in front of a quantizer of step ¼: codes 0 to 2 / ¼."""

    def body(b, x):
        x = b.node("Clip", [x, b.constant("low", np.float32(0)), b.constant("high", np.float32(2))])
        return quantized(b, x)

    (quantize,) = nodes_of(commuted(body), Quantize)
    assert (quantize.op.quantizer.lo, quantize.op.quantizer.hi) == (0, 8)


def test_case_3_upsampling_of_quantized_values():
    state = commuted(lambda b, x: quantized(b, b.upsample(x)))
    (resize,) = nodes_of(state, Resize)
    assert resize.op.factors == (2, 2) and isinstance(producer(state, resize).op, Quantize)


def test_case_4_concat_of_quantized_values():
    state = commuted(lambda b, x: quantized(b, b.concat(x, b.relu(x))))
    (concat,) = nodes_of(state, Concat)
    ops = [producer(state, concat, i).op for i in (0, 1)]
    assert all(isinstance(op, Quantize) for op in ops)
    assert nodes_of(state, Relu) == []


def test_a_stream_is_left_alone_with_the_reason():
    state = commuted(lambda b, x: b.relu(x), lambda b, x: b.add(quantized(b, x), x))
    assert len(nodes_of(state, Relu)) == 1
    assert any("(Relu): " in line and "integer stream" in line for line in state.results[-1].left_alone)


def test_what_no_quantizer_reads_is_left_alone_with_the_reason():
    state = commuted(lambda b, x: b.relu(x))
    assert any("no quantizer reads it" in line for line in state.results[-1].left_alone)


@pytest.mark.parametrize("step", [0.25, 0.5])
def test_two_quantizers_stay_two_with_the_reason(step):
    def body(b, x):
        return b.concat(quantized(b, x), b.conv(b.quantize(x, 4, step), 4, 4))

    state = commuted(body)
    same = step == 0.25
    assert len(nodes_of(state, Quantize)) == (1 if same else 2)
    assert any("another step or range than" in line for line in state.results[-1].left_alone) != same
    assert nodes_of(state, MaxPool) == []


def test_case_1_relu_is_the_lower_end_of_the_clip():
    def body(b, x):
        return b.conv(b.quantize(b.relu(x), 4), 4, 4)

    result = lower(chain(body))
    assert "Max" not in operators(result.model)
    requantize = next(node for node in result.model.graph.node if node.op_type == "Requantize")
    assert (attribute(requantize, "lo"), attribute(requantize, "hi")) == (0, 15)


def test_case_2_pooling_of_quantized_values_runs_on_8_bits():
    def body(b, x):
        x = b.max_pool(b.relu(x))
        return b.add(b.conv(b.quantize(x, 4, 0.1), 4, 4), b.conv(b.quantize(x, 4, 0.2), 4, 4))

    qdq = chain(body)
    result = lower(qdq)
    assert operators(result.model).count("MaxPool") == 2
    assert not any(op.startswith("MaxPool_") for op in operators(result.model))
    assert_agrees(qdq, result)


def test_case_6_a_function_in_front_of_a_split_is_quantized_exactly():
    """Half of it goes on as a stream as well."""

    def body(b, x):
        y = b.node("Mul", [x, b.node("Sigmoid", [x])])
        bounds = [b.constant("bound", np.array([v])) for v in (1, 3, 1)]
        half = b.node("Slice", [y, *bounds], (2, *b.shape[y][1:]))
        return b.quantize(b.add(b.conv(b.quantize(half, 4), 2, 4), half), 4)

    qdq = chain(body)
    state = state_after("commute_quantizers", qdq)
    first = nodes_of(state, Quantize)[0]
    assert producer(state, first).source.startswith("Mul")
    told = [line for each in lower(qdq).report["passes"] for line in each["changed"]]
    assert any("Sigmoid, Mul by 15 thresholds a channel, exact" in line for line in told)


def test_case_5_equal_quantizers_of_one_tensor_are_one():
    def body(b, x):
        x = b.relu(x)
        return b.concat(b.conv(b.quantize(x, 4, 0.25), 4, 4), b.conv(b.quantize(x, 4, 0.25), 2, 4))

    qdq = chain(body)
    result = lower(qdq)
    assert operators(result.model).count("Requantize") == 1
    assert_agrees(qdq, result)


def test_case_5_pools_behind_equal_quantizers_are_one():
    def body(b, x):
        x = b.max_pool(b.relu(x))
        return b.concat(b.conv(b.quantize(x, 4, 0.25), 4, 4), b.conv(b.quantize(x, 4, 0.25), 2, 4))

    qdq = chain(body)
    result = lower(qdq)
    assert operators(result.model).count("MaxPool") == 1
    assert_agrees(qdq, result)
