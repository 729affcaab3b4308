"""Which pools join their convolution."""

import pytest
from onnx import TensorProto
from small_models import ModelWriter, random_image, reference

from aqd_deploy.compiler import compile_model
from aqd_deploy.compiler.fusion import fuse
from aqd_deploy.compiler.plan import Conv, MaxPool, Plan
from aqd_deploy.compiler.pooling import pool_in_convolutions
from aqd_deploy.integer.reader import read_graph
from aqd_deploy.kernels.contract.spec import Pool, StoreRequantize, StoreStream
from aqd_deploy.runtime import Program


@pytest.fixture
def w():
    return ModelWriter()


@pytest.fixture
def stem(w):
    image = w.image("image", 3, 18, 20)
    return w.relu(w.conv(image, w.weight(16, 3, 3), pads=[1, 1, 1, 1], strides=[2, 2]))


def plan_of(w: ModelWriter) -> Plan:
    return pool_in_convolutions(fuse(read_graph(w.model())))


def test_the_only_reader_joins_with_its_requantizations(w, stem):
    pooled = w.max_pool_s32(stem, 3, 2, 1)
    w.output(pooled)
    w.output(w.requantize(pooled, 16), dtype=TensorProto.UINT8)
    plan = plan_of(w)
    (op,) = plan.operations
    assert op.epilogue.pool == Pool((3, 3), (2, 2), (1, 1, 1, 1))
    assert op.epilogue.stores == (StoreStream(), StoreRequantize(0, 15, "uint8"))
    assert list(op.outputs) == plan.outputs


def test_no_stream_where_nothing_reads_it(w, stem):
    w.output(w.requantize(w.max_pool_s32(stem, 3, 2, 1), 16), dtype=TensorProto.UINT8)
    (op,) = plan_of(w).operations
    assert op.epilogue.stores == (StoreRequantize(0, 15, "uint8"),)


def test_a_second_reader_keeps_the_map(w, stem):
    w.output(w.max_pool_s32(stem, 3, 2, 1))
    w.output(stem)
    assert [type(op) for op in plan_of(w).operations] == [Conv, MaxPool]


def test_a_requantized_map_is_pooled_on_its_own(w, stem):
    w.output(w.max_pool(w.requantize(stem, 16), 3, 2, 1), dtype=TensorProto.UINT8)
    assert [type(op) for op in plan_of(w).operations] == [Conv, MaxPool]


def test_a_program_with_a_pooled_stem_is_exact(w, stem, tmp_path):
    pooled = w.max_pool_s32(stem, 3, 2, 1)
    first = w.conv(w.requantize(pooled, 16), w.weight(16, 16, 3), pads=[1, 1, 1, 1])
    w.output(w.relu(w.skip_add(first, pooled, 16)))
    model = w.model()
    compile_model(model, tmp_path / "p.so")
    inputs = random_image(model, 1)
    got = Program.load(tmp_path / "p.so").run(inputs)
    for name, value in reference(model, inputs).items():
        assert (got[name] == value).all()
