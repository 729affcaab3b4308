"""Transposed convolutions as phases, case by case, against a float64 evaluation."""

import numpy as np
import pytest
from float64_reference import Float64Network
from odd_graphs import inputs_of
from qdq_graphs import QdqBuilder
from small_lowerings import manifest_of, nodes_of, state_after

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.integer.reference import ReferenceRunner
from aqd_deploy.passes.foreign_operations import DepthToSpace, Slice
from aqd_deploy.passes.operations import Conv
from aqd_deploy.passes.pipeline import lower


def transposed(kernel, stride, pads, more=(0, 0), group=1, size=(5, 6), per_channel=True, bias=True):
    """image → ConvTranspose of 4 channels to 6 → out."""
    b = QdqBuilder(7, *size, 4)
    weight = b.constant("weight", b.rng.integers(-128, 128, (4, 6 // group, *kernel)).astype(np.int8))
    steps = b.rng.uniform(0.01, 0.1, 6 // group if per_channel else 1).astype(np.float32)
    scale = b.constant("step_w", steps if per_channel else steps[0])
    inputs = [b.image([3, 3, 3, 3]), b.node("DequantizeLinear", [weight, scale], axis=1)]
    if bias:
        values = b.constant("bias", b.rng.integers(-900, 900, 6).astype(np.int32))
        inputs.append(b.node("DequantizeLinear", [values, b.constant("step_b", np.float32(0.02))], axis=0))
    spans = zip(size, kernel, stride, pads[:2], pads[2:], more, strict=True)
    shape = [s * (n - 1) + extra + k - before - after for n, k, s, before, after, extra in spans]
    b.output(
        b.node(
            "ConvTranspose", inputs, (6, *shape), strides=stride, pads=pads, output_padding=more, group=group
        ),
        "out",
    )
    return b.build()


def assert_same(model):
    inputs = inputs_of(model)
    result = lower(model)
    got = ReferenceRunner(result.model, threads=1).run(inputs)["out"]
    scale = np.array(manifest_of(result.model)["outputs"]["out"]["scale"]).reshape(1, -1, 1, 1)
    wanted = Float64Network(model).outputs(inputs)["out"]
    assert got.shape == wanted.shape
    # Half a unit where the bias is no whole number of them; float64 leaves far less.
    assert (np.abs(got - wanted / scale) <= result.report["output_errors"]["out"] + 1e-6).all()
    return result


@pytest.mark.parametrize(
    ("kernel", "pads", "more", "cut"),
    [
        ((2, 2), [0, 0, 0, 0], [0, 0], False),
        ((4, 4), [1, 1, 1, 1], [0, 0], True),
        ((3, 3), [1, 1, 1, 1], [1, 1], False),
        ((3, 3), [1, 1, 1, 1], [0, 0], True),
        ((3, 5), [0, 2, 2, 2], [0, 1], True),
        ((1, 1), [0, 0, 0, 0], [1, 1], False),
        ((6, 6), [2, 2, 2, 2], [0, 0], False),
    ],
)
def test_case_1_a_stride_of_2(kernel, pads, more, cut):
    model = transposed(kernel, [2, 2], pads, more)
    state = state_after("split_transposed", model)
    assert len(nodes_of(state, Conv)) == len(nodes_of(state, DepthToSpace)) == 1
    assert bool(nodes_of(state, Slice)) == cut
    assert_same(model)


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("per_channel", [False, True])
def test_case_1_groups_and_strides_of_3(group, per_channel):
    assert_same(transposed((5, 4), [3, 3], [1, 0, 2, 1], group=group, per_channel=per_channel, bias=False))


def test_case_2_a_stride_of_1_is_a_convolution():
    model = transposed((3, 3), [1, 1], [1, 1, 1, 1])
    state = state_after("split_transposed", model)
    assert nodes_of(state, DepthToSpace) == nodes_of(state, Slice) == [] and len(nodes_of(state, Conv)) == 1
    assert_same(model)


def test_two_strides_are_refused():
    with pytest.raises(UnsupportedModelError, match=r"strides \[2, 1\]"):
        lower(transposed((2, 2), [2, 1], [0, 0, 0, 0]))
