"""Arenas: no two tensors that are alive together share a byte, and little is wasted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_models import ModelWriter, tiny_network

from aqd_deploy.compiler.in_place import add_in_place
from aqd_deploy.compiler.memory import ALIGNMENT, Block, most_alive, place, plan_memory
from aqd_deploy.compiler.plan import Stack, Unstack
from aqd_deploy.compiler.planning import plan_model

blocks = st.lists(
    st.tuples(st.integers(1, 50), st.integers(0, 20), st.integers(0, 8)), min_size=1, max_size=25
).map(lambda rows: [Block(f"t{i}", 64 * s, t, t + n) for i, (s, t, n) in enumerate(rows)])


@given(blocks)
def test_living_tensors_are_apart(found):
    offsets = place(found)
    for i, a in enumerate(found):
        assert offsets[a.name] % ALIGNMENT == 0
        for b in found[:i]:
            if a.meets(b):
                first, second = sorted((a, b), key=lambda block: offsets[block.name])
                assert offsets[first.name] + first.size <= offsets[second.name]


@given(blocks)
def test_arena_is_no_smaller_than_what_is_alive(found):
    offsets = place(found)
    assert max(offsets[b.name] + b.size for b in found) >= most_alive(found)


def test_a_chain_needs_its_two_largest_neighbours():
    sizes = [640, 64, 320, 320, 64, 640]
    found = [Block(f"t{i}", size, i, i + 1) for i, size in enumerate(sizes)]
    offsets = place(found)
    assert most_alive(found) == 704
    assert max(offsets[b.name] + b.size for b in found) == 704


def pyramid(channels: int, size: int = 8) -> ModelWriter:
    """Two levels into one head; the large one is read by another convolution too."""
    w = ModelWriter()
    image = w.image("image", 4, size, size)
    large = w.requantize(w.conv(image, w.weight(channels, 4, 1)), channels)
    small = w.requantize(w.conv(large, w.weight(channels, channels, 2), strides=[2, 2]), channels)
    shared = w.weight(8, channels, 3)
    for level in (large, small):
        w.output(w.conv(level, shared, pads=[1, 1, 1, 1]))
    return w


def copies(plan):
    return [op for op in plan.operations if isinstance(op, Stack | Unstack)]


def test_levels_are_written_where_the_stack_lies():
    plan = plan_model(pyramid(64).model())
    (stack,) = copies(plan)
    planned, memory = plan_memory(plan)
    assert copies(planned) == []
    start = memory.offsets[stack.output]
    assert [memory.offsets[name] for name in stack.inputs] == [start, start + 64 * 64]


def test_levels_that_would_not_be_aligned_are_copied():
    planned, _ = plan_memory(plan_model(pyramid(5, size=7).model()))
    assert len(copies(planned)) == 1


@pytest.mark.parametrize("writer", [pyramid(64), pyramid(5, size=7)])
def test_nothing_is_overwritten_before_its_last_reader(writer):
    check_contents(writer.model())


@pytest.mark.parametrize("in_place", [False, True])
def test_nothing_is_overwritten_in_a_residual_network(in_place):
    plan = plan_model(tiny_network())
    check_plan(add_in_place(plan, lambda op: in_place))


def check_contents(model) -> None:
    check_plan(plan_model(model))


def check_plan(original) -> None:
    """Goes through the operations with the name of the tensor that each byte of the arena holds."""
    parts = {op.output: set(op.inputs) for op in copies(original) if isinstance(op, Stack)}
    plan, memory = plan_memory(original)
    holds: dict[int, str] = {}
    for op in plan.operations:
        for name in op.reads:
            if name in memory.offsets:
                found = {holds[byte] for byte in placed(name, plan, memory)}
                assert found == {name} or found == parts.get(name)
        for name in op.writes:
            if name in memory.offsets:
                holds.update(dict.fromkeys(placed(name, plan, memory), name))
    assert max(holds) < memory.arena_bytes


def placed(name, plan, memory) -> range:
    start = memory.offsets[name]
    return range(start, start + plan.tensors[name].bytes)
