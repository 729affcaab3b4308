"""Sums, products and transposed convolutions whose channels have different scales and zero points."""

import numpy as np
from island_agreement import assert_islands_agree
from odd_graphs import quantize
from onnx import numpy_helper
from qdq_graphs import QdqBuilder, plain_graph
from small_lowerings import chain, nodes_of, state_after

from aqd_deploy.passes.contract import Lowering
from aqd_deploy.passes.dump import state_text
from aqd_deploy.passes.integer_operations import Requantize
from aqd_deploy.passes.pipeline import PASSES


def test_a_sum_with_an_offset_a_channel_is_solved_for_each():
    def body(b, x):
        first, second = quantize(b, x, 0.0310173, 17), quantize(b, b.relu(x), 0.0173519, 5)
        offsets = b.constant("k", np.array([0.1, -2.3, 0, 0.7], np.float32).reshape(1, 4, 1, 1))
        total = b.node(
            "Mul",
            [b.node("Add", [b.node("Add", [first, second]), offsets]), b.constant("f", np.float32(-0.7))],
        )
        return b.conv(quantize(b, total, 0.0431287, 101), 4, 7, odd=False)

    qdq = chain(body)
    assert_islands_agree(qdq)
    (total,) = nodes_of(state_after("move_scales", qdq), Requantize)
    assert total.op.solution.proven == [True] * 4


def test_a_step_a_channel_behind_a_sum_and_a_concat():
    def body(b, x):
        first, second = quantize(b, x, 0.0310173, 17), quantize(b, b.relu(x), 0.0173519, 5)
        y = b.concat(b.node("Add", [first, second]), first)
        b.initializers.append(numpy_helper.from_array(np.linspace(0.02, 0.06, 8).astype(np.float32), "steps"))
        points = b.constant("points", np.arange(90, 98).astype(np.uint8))
        q = b.node("QuantizeLinear", [y, "steps", points], axis=1)
        q = b.node("DequantizeLinear", [q, "steps", points], axis=1)
        return quantize(b, b.conv(q, 8, 7, group=8, odd=False), 0.3, 128)

    assert_islands_agree(chain(body))


def test_phases_of_unlike_offsets_come_to_one_scale():
    """The mean of the image gives each phase another offset, and one of them no taps at all."""
    b = QdqBuilder(7, 5, 5, 3)
    weight = b.constant("weight", b.rng.integers(-128, 128, (3, 2, 1, 1)).astype(np.int8))
    w = b.node("DequantizeLinear", [weight, b.constant("step_w", np.array([0.02, 0.5], np.float32))], axis=1)
    bias = b.constant("bias", np.array([0.3, -7.1], np.float32))
    y = b.node("ConvTranspose", [b.image(), w, bias], (2, 10, 10), strides=[2, 2], output_padding=[1, 1])
    b.output(b.relu(y), "out")
    assert_islands_agree(b.build(), exact=False)


def test_every_state_has_its_text():
    """Also those with functions between tensors and quantizers."""

    def body(b, x):
        y = b.node("Mul", [x, b.node("Sigmoid", [x])])
        return b.node("Mul", [quantize(b, y, 0.02, 3), quantize(b, b.relu(x), 0.02, 3)])

    state = Lowering(chain(lambda b, x: quantize(b, body(b, x), 0.1, 4)))
    for each in PASSES:
        each(state)
        text = state_text(state)
        assert text.startswith(f"pass {each.name}") and max(map(len, text.splitlines())) < 2000


def test_paper_numerics_keep_sums_as_skip_adds():
    state = state_after("move_scales", plain_graph(4, bits=4), "paper")
    assert nodes_of(state, Requantize) == []
