"""Constants of epilogues: where they lie in their pool, what they take, and programs that read them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from small_models import ModelWriter, random_image, reference

from aqd_deploy.compiler import compile_model
from aqd_deploy.compiler.constants import ConstantPool
from aqd_deploy.kernels.storage.bit_planes import FRAME, decode
from aqd_deploy.runtime import Program

shapes = st.one_of(st.tuples(st.integers(1, 200)), st.tuples(st.integers(1, 5), st.integers(1, 90)))


@given(st.lists(hnp.arrays(np.int64, shapes), min_size=1, max_size=5))
def test_arrays_lie_where_the_pool_says(arrays):
    pool = ConstantPool("int64")
    starts = [pool.add(array) for array in arrays]
    values = decode(pool.frames())
    assert values.size == pool.size
    for start, array in zip(starts, arrays, strict=True):
        assert start % FRAME == 0
        np.testing.assert_array_equal(values[start : start + array.size], array.reshape(-1))


def test_equal_values_lie_there_once():
    pool = ConstantPool("int32")
    first = pool.add(np.arange(100, dtype=np.int32))
    other = pool.add(np.ones(3, np.int32))
    assert pool.add(np.arange(100, dtype=np.int32).reshape(4, 25)) == first
    assert (first, other, pool.size) == (0, 2 * FRAME, 3 * FRAME)


def test_small_constants_take_few_bytes():
    """5 rows of 256 channels, such as a requantization's, in about the bits that they have."""
    bits = np.array([[7], [15], [4], [9], [10]])
    rows = np.random.default_rng(0).integers(0, 1 << bits, (5, 256)).astype(np.int32)
    pool = ConstantPool("int32")
    pool.add(rows)
    assert pool.frames().nbytes <= int(bits.sum()) * 256 // 8 + 5 * (256 // FRAME) * 5


@pytest.mark.parametrize("same", [True, False])
def test_programs_with_constants_of_few_and_of_all_bits(same, tmp_path):
    """`same`: nothing but frames of equal values, so no bit planes at all."""
    w = ModelWriter()
    channels = 70
    rng = np.random.default_rng(1)
    x = w.conv(w.image("image", 2, 3, 4), w.constant(rng.integers(-2, 3, (channels, 2, 1, 1), np.int8)))
    c = np.full(channels, 5) if same else rng.integers(-(2**31) + 1, 2**31, channels)
    b = np.full(channels, 1 << 33) if same else rng.integers(-(2**61), 2**61, channels)
    d = np.full(channels, 30) if same else rng.integers(40, 63, channels)
    constants = [w.per_channel(c, np.int64), w.per_channel(b, np.int64), w.per_channel(d, np.uint64)]
    w.output(w._dialect("MultiplyShift", [x, *constants]))
    model = w.model()
    compile_model(model, tmp_path / "p.so", target="x86-64-v2")
    inputs = random_image(model)
    got = Program.load(tmp_path / "p.so").run(inputs)
    for name, value in reference(model, inputs).items():
        np.testing.assert_array_equal(got[name], value)
