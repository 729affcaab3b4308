"""Which convolutions are stacked, and that the programs still return onnxruntime's integers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from small_models import ModelWriter, random_image, reference

from aqd_deploy.compiler import compile_model
from aqd_deploy.compiler.fusion import fuse
from aqd_deploy.compiler.levels import joint_name, stack_levels
from aqd_deploy.compiler.plan import Conv, Stack, Unstack
from aqd_deploy.integer.reader import read_graph
from aqd_deploy.kernels.contract.spec import AddBias
from aqd_deploy.runtime import Program


def stacked(writer: ModelWriter):
    return stack_levels(fuse(read_graph(writer.model())))


def convs(plan) -> list[Conv]:
    return [op for op in plan.operations if isinstance(op, Conv) and op.spec.levels]


def count(plan, kind) -> int:
    return sum(isinstance(op, kind) for op in plan.operations)


@pytest.fixture
def w():
    return ModelWriter()


@pytest.fixture
def levels(w):
    """Three quantized maps of 8 channels: 4x4, 9x7 and 2x3."""
    sizes = [(4, 4), (9, 7), (2, 3)]
    return [w.image(f"level{i}", 8, *size) for i, size in enumerate(sizes)]


def test_a_tower_stays_stacked_from_entry_to_outputs(w, levels):
    for tower in range(2):
        maps = levels
        for _ in range(2):
            shared = w.weight(8, 8, 3)
            maps = [w.requantize(w.conv(x, shared, pads=[1] * 4), 8) for x in maps]
        head = w.weight(5 + tower, 8, 3)
        for x in maps:
            w.output(w.bias(w.conv(x, head, pads=[1] * 4), 5 + tower))
    plan = stacked(w)
    assert [op.spec.levels for op in convs(plan)] == [((9, 7), (4, 4), (2, 3))] * 6
    assert (count(plan, Stack), count(plan, Unstack), len(plan.operations)) == (1, 0, 7)
    assert all(op.operands[0].shape[-1] == 3 * op.spec.out_channels for op in convs(plan))
    assert set(plan.outputs) <= set(plan.slices)


def test_a_missing_bias_counts_as_zeros(w, levels):
    shared = w.weight(4, 8, 1)
    w.output(w.conv(levels[0], shared))
    w.output(w.bias(w.conv(levels[1], shared), 4))
    (op,) = convs(stacked(w))
    assert op.epilogue.stages == (AddBias(),)
    assert op.operands[0].shape == (8,)
    np.testing.assert_array_equal(op.operands[0][4:], 0)


def test_other_steps_are_another_group(w, levels):
    shared = w.weight(4, 8, 1)
    w.output(w.conv(levels[0], shared))
    w.output(w.relu(w.conv(levels[1], shared)))
    assert convs(stacked(w)) == []


@pytest.mark.parametrize("attributes", [{"strides": [2, 2]}, {"group": 8}])
def test_geometries_that_no_stacked_kernel_takes(w, levels, attributes):
    shared = w.weight(8, 1 if "group" in attributes else 8, 3)
    for x in levels[:2]:
        w.output(w.conv(x, shared, pads=[1] * 4, **attributes))
    assert convs(stacked(w)) == []


def test_a_skip_add_is_left_alone(w, levels):
    shared = w.weight(8, 8, 3)
    for x in levels[:2]:
        w.output(w.skip_add(w.conv(x, shared, pads=[1] * 4), w.cast(x), 8))
    assert convs(stacked(w)) == []


def test_a_weight_applied_twice_in_a_row_is_no_pyramid(w, levels):
    shared = w.weight(8, 8, 3)
    once = w.requantize(w.conv(levels[0], shared, pads=[1] * 4), 8)
    w.output(w.requantize(w.conv(once, shared, pads=[1] * 4), 8), dtype=TensorProto.UINT8)
    plan = stacked(w)
    assert convs(plan) == []
    assert count(plan, Conv) == 2


def test_groups_that_depend_on_each_other_crosswise(w, levels):
    """One order would need both first: only one group is merged."""
    first, second = w.weight(8, 8, 3), w.weight(8, 8, 3)

    def apply(x, weight):
        return w.requantize(w.conv(x, weight, pads=[1] * 4), 8)

    for order, x in (((first, second), levels[0]), ((second, first), levels[1])):
        w.output(apply(apply(x, order[0]), order[1]), dtype=TensorProto.UINT8)
    plan = stacked(w)
    assert len(convs(plan)) == 1
    assert count(plan, Conv) == 3


def test_a_map_with_another_reader_is_copied_out(w, levels):
    shared = w.weight(8, 8, 3)
    maps = [w.requantize(w.conv(x, shared, pads=[1] * 4), 8) for x in levels]
    w.output(w.max_pool(maps[0], 2, 2, 0), dtype=TensorProto.UINT8)
    for x in maps[1:]:
        w.output(x, dtype=TensorProto.UINT8)
    plan = stacked(w)
    assert (len(convs(plan)), count(plan, Unstack)) == (1, 1)
    assert maps[0] not in plan.slices


def test_names_of_several():
    assert joint_name(["cls_p3", "cls_p4", "cls_p5"]) == "cls_p3-5"
    assert joint_name(["a.level9.x", "a.level10.x"]) == "a.level9-10.x"
    assert joint_name(["t3", "t9", "t4"]) == "t{3,9,4}"
    assert joint_name(["left_conv", "right_conv"]) == "{lef,righ}t_conv"


@st.composite
def pyramids(draw) -> ModelWriter:
    """Levels from a random backbone into one or two towers with shared weights; extra readers here and
    there.
    """
    w = ModelWriter(draw(st.integers(0, 1000)))
    channels = draw(st.sampled_from([4, 16, 64]))
    image = w.image("image", 3, draw(st.integers(4, 14)), draw(st.integers(4, 14)))
    levels = [w.requantize(w.conv(image, w.weight(channels, 3, 3), pads=[1] * 4), channels)]
    for _ in range(draw(st.integers(1, 3))):
        down = w.conv(levels[-1], w.weight(channels, channels, 3), strides=[2, 2], pads=[1] * 4)
        levels.append(w.requantize(down, channels, hi=draw(st.sampled_from([3, 15, 255]))))
    for _ in range(draw(st.integers(1, 2))):
        maps = levels
        for _ in range(draw(st.integers(0, 2))):
            shared = w.weight(channels, channels, draw(st.sampled_from([1, 3])), bits=4)
            maps = [_tower(draw, w, x, shared, channels) for x in maps]
        head = w.weight(5, channels, 3)
        for x in maps:
            y = w.conv(x, head, pads=[1] * 4)
            w.output(w.bias(y, 5) if draw(st.booleans()) else y)
    if draw(st.booleans()):
        w.output(w.relu(w.cast(maps[0])))
    return w


def _tower(draw, w: ModelWriter, x: str, shared: str, channels: int) -> str:
    kernel = 3 if any(t.name == shared and t.dims[2] == 3 for t in w.initializers) else 1
    y = w.conv(x, shared, pads=[kernel // 2] * 4)
    if draw(st.integers(0, 4)) == 0:
        return w.threshold(y, channels)
    return w.requantize(y, channels)


@settings(max_examples=5)
@given(pyramids(), st.integers(1, 2))
def test_any_pyramid_is_exact(tmp_path_factory, writer, threads):
    model = writer.model()
    path = tmp_path_factory.mktemp("pyramid") / "p.so"
    compile_model(model, path, target="x86-64-v2", threads=threads)
    inputs = random_image(model)
    got = Program.load(path).run(inputs)
    for name, expected in reference(model, inputs).items():
        np.testing.assert_array_equal(got[name], expected, err_msg=name)
