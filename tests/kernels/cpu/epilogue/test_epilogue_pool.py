"""Convolutions with a max-pool inside against numpy."""

import numpy as np
import pytest
from kernel_reference import (
    MCPU,
    call,
    compile_functions,
    convolve,
    epilogue_params,
    finish,
    host_runs,
    max_pooled,
)

from aqd_deploy.errors import ShapeError
from aqd_deploy.kernels.contract.caches import CORE
from aqd_deploy.kernels.contract.spec import (
    AddBias,
    ConvSpec,
    Epilogue,
    Pool,
    Relu,
    StoreRequantize,
    StoreStream,
)
from aqd_deploy.kernels.cpu.conv import pooled
from aqd_deploy.kernels.cpu.conv.families import conv2d
from aqd_deploy.targets.isa import Isa

STEM = Pool((3, 3), (2, 2), (1, 1, 1, 1))
ISAS = [
    pytest.param(isa, marks=pytest.mark.skipif(not host_runs(isa), reason="not this CPU"))
    for isa in (Isa.AMX, Isa.VNNI, Isa.AVX2, Isa.PORTABLE)
]
CASES = {
    "stem": (ConvSpec(37, 41, 3, 40, (7, 7), (2, 2), (3, 3, 3, 3)), STEM),
    "vectors": (ConvSpec(32, 16, 3, 32, (3, 3), (2, 2), (1, 1, 1, 1)), STEM),
    "uneven": (ConvSpec(9, 8, 5, 7, (3, 3), pads=(1, 1, 1, 1)), Pool((2, 3), (1, 2), (0, 2, 1, 0))),
    "everything": (ConvSpec(6, 6, 4, 16, (1, 1)), Pool((6, 6), (1, 1), (0, 0, 0, 0))),
    "signed": (ConvSpec(9, 9, 4, 16, (3, 3), input_signed=True), STEM),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kept_bytes", [pooled.most_kept_bytes(CORE), 1])
def test_pool_inside(isa, case, kept_bytes, monkeypatch):
    """With one byte allowed, every row of the pooled map is a task of its own."""
    monkeypatch.setattr(pooled, "most_kept_bytes", lambda core: kept_bytes)
    spec, pool = CASES[case]
    rng = np.random.default_rng(0)
    dtype = np.int8 if spec.input_signed else np.uint8
    limits = np.iinfo(dtype)
    data = rng.integers(limits.min, limits.max, (spec.height, spec.width, spec.in_channels), dtype, True)
    weights = rng.integers(-128, 128, (spec.out_channels, spec.in_channels, *spec.kernel), np.int8)
    bias = rng.integers(-99999, 99999, spec.out_channels, np.int32)
    stores = (StoreStream(), StoreRequantize(0, 15))
    value = max_pooled(np.maximum(convolve(spec, data, weights) + bias, 0), pool)
    params = epilogue_params(rng, Epilogue((), stores), value.shape, 2**24)
    expected = finish(Epilogue((), stores), value, params)
    kernel = conv2d(spec, Epilogue((AddBias(), Relu()), stores, pool), isa, 2)
    module = compile_functions({"f": kernel.prim_func}, MCPU[isa])
    inputs = [data, kernel.layout.pack(weights), bias, *params]
    for e, g in zip(expected, call(module["f"], inputs, [np.zeros_like(e) for e in expected]), strict=True):
        np.testing.assert_array_equal(g, e)


def test_rows_fill_the_cache_but_no_more():
    spec = ConvSpec(320, 320, 3, 64, (7, 7), (2, 2), (3, 3, 3, 3))
    limit = pooled.most_kept_bytes(CORE)
    rows = pooled.rows_per_task(spec, STEM, 2, limit)
    assert (2 * rows + 1) * 160 * 64 * 4 <= limit
    assert rows > 1


def test_windows_of_padding_are_refused():
    spec = ConvSpec(8, 8, 4, 16, (1, 1))
    with pytest.raises(ShapeError, match="pool"):
        conv2d(spec, Epilogue(pool=Pool((2, 2), (2, 2), (2, 0, 0, 0))), Isa.PORTABLE, 1)
