"""Skip-adds that write over their operand: which do, and that no integer changes."""

import numpy as np
import pytest
from small_models import ModelWriter, random_image, reference

from aqd_deploy.compiler.build import compile_model
from aqd_deploy.compiler.in_place import add_in_place
from aqd_deploy.compiler.memory import plan_memory
from aqd_deploy.compiler.planning import plan_model
from aqd_deploy.runtime import Program


def residual(
    blocks: int = 2, size: int = 8, later: bool = False, upsampled: bool = False, channels: int = 64
) -> ModelWriter:
    """A chain of residual blocks on one stream. `later`: the first stream is read again at the end."""
    w = ModelWriter(seed=3)
    levels = w.requantize(w.conv(w.image("image", 4, size, size), w.weight(channels, 4, 1)), channels)
    stream = first = w.relu(w.conv(levels, w.weight(channels, channels, 1)))
    if upsampled:
        strided = w.conv(levels, w.weight(channels, channels, 1), strides=[2, 2])
        stream = w.upsample(strided, 2)
    for _ in range(blocks):
        branch = w.conv(w.requantize(first, channels), w.weight(channels, channels, 3), pads=[1, 1, 1, 1])
        stream = first = w.relu(w.skip_add(branch, stream, channels))
    w.output(w.conv(w.requantize(stream, channels), w.weight(8, channels, 1)))
    if later:
        w.output(stream)
    return w


def in_place(writer: ModelWriter, writes_once: bool = True):
    plan = add_in_place(plan_model(writer.model()), lambda op: writes_once)
    return plan, [pair for op in plan.operations for pair in op.written_over.items()]


def test_a_stream_stays_where_it_is():
    plan, pairs = in_place(residual(3))
    _, memory = plan_memory(plan)
    assert len(pairs) == 3 - 1  # the last block stores levels only
    assert len({memory.offsets[name] for pair in pairs for name in pair}) == 1


def test_a_kernel_that_computes_values_twice_does_not():
    assert in_place(residual(3), writes_once=False)[1] == []


def test_an_operand_that_is_read_later_is_kept():
    kept = ModelWriter(seed=4)
    levels = kept.requantize(kept.conv(kept.image("image", 4, 8, 8), kept.weight(16, 4, 1)), 16)
    stream = kept.conv(levels, kept.weight(16, 16, 1))
    summed = kept.skip_add(kept.conv(levels, kept.weight(16, 16, 3), pads=[1, 1, 1, 1]), stream, 16)
    kept.output(summed)
    kept.output(
        kept.conv(kept.requantize(kept.skip_add(kept.relu(summed), stream, 16), 16), kept.weight(8, 16, 1))
    )
    assert in_place(kept)[1] == []


def test_an_upsampled_operand_is_kept():
    assert len(in_place(residual(2))[1]) == 1
    assert in_place(residual(1, upsampled=True, later=True))[1] == []


@pytest.mark.parametrize(("size", "channels"), [(8, 64), (7, 64), (12, 40)])
def test_programs_return_the_integers_of_onnxruntime(tmp_path, size, channels):
    model = residual(3, size=size, later=True, channels=channels).model()
    compile_model(model, tmp_path / "p.so", threads=2)
    image = random_image(model)
    expected = reference(model, image)
    for threads in (1, 2):
        got = Program.load(tmp_path / "p.so", threads).run(image)
        for name, values in expected.items():
            assert np.array_equal(got[name], values)
