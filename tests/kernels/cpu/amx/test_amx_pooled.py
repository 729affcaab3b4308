"""Convolutions on AMX with a max-pool inside return the integers of the numpy reference."""

from dataclasses import dataclass

import numpy as np
import pytest
from amx_cases import operands, plans_of, specs
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
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

from aqd_deploy.kernels.contract.caches import Core
from aqd_deploy.kernels.contract.spec import (
    AddBias,
    ConvSpec,
    Epilogue,
    MultiplyShift,
    Pool,
    Relu,
    Scaling,
    SkipAdd,
    StoreRequantize,
    StoreStream,
)
from aqd_deploy.kernels.cpu.amx.conv import amx_layout
from aqd_deploy.kernels.cpu.amx.plan import Plan
from aqd_deploy.kernels.cpu.amx.pooled import conv_amx_pooled
from aqd_deploy.kernels.cpu.conv.pooled import around_pool
from aqd_deploy.targets.isa import Isa

needs_amx = pytest.mark.skipif(not host_runs(Isa.AMX), reason="this machine has no AMX")
CASES = 4
STAGES = {
    "keep order": (AddBias(), Relu()),
    "may turn it around": (MultiplyShift(), AddBias()),
    "add": (SkipAdd(), Relu()),
}
STORES = (StoreStream(), StoreRequantize(0, 15))
POOLS = [
    Pool((3, 3), (2, 2), (1, 1, 1, 1)),
    Pool((2, 2), (2, 2), (0, 0, 0, 0)),
    Pool((2, 3), (1, 2), (0, 2, 1, 0)),
    Pool((4, 5), (3, 1), (1, 2, 3, 4)),
    Pool((1, 2), (2, 3), (0, 0, 0, 1)),
]
KINDS = {
    "stem": specs([(7, 7), (5, 5), (3, 3)], [(1, 1), (2, 2), (3, 2)], [1, 3, 4], stacked=False),
    "3x3": specs([(3, 3)], [(1, 1), (2, 2)], [20, 64], stacked=False),
    # Without padding the input is read as it lies.
    "1x1": specs([(1, 1)], [(1, 1), (1, 1), (2, 2)], [64], stacked=False),
}


@dataclass(frozen=True)
class Case:
    spec: ConvSpec
    plan: Plan
    pool: Pool
    stages: str
    threads: int
    l2: int
    seed: int


@st.composite
def cases(draw, kind: str) -> Case:
    spec = draw(KINDS[kind])
    fitting = [pool for pool in POOLS if min(pool.size(spec.out_height, spec.out_width)) > 0]
    return Case(
        spec,
        draw(plans_of(spec)),
        draw(st.sampled_from(fitting)),
        draw(st.sampled_from(sorted(STAGES))),
        draw(st.integers(1, 2)),
        # Everything in one task, and tasks of a row.
        draw(st.sampled_from([1 << 20, 1 << 10])),
        draw(st.integers(0, 2**31)),
    )


@needs_amx
@pytest.mark.parametrize("kind", KINDS)
def test_no_pooled_integer_differs(kind):
    # Shrinking would compile for minutes, and a failure prints its case.
    @settings(max_examples=2, phases=[Phase.generate])
    @given(st.lists(cases(kind), min_size=CASES, max_size=CASES))
    def sweep(batch: list[Case]) -> None:
        functions = {}
        for i, c in enumerate(batch):
            epilogue = Epilogue(STAGES[c.stages], STORES, c.pool)
            core = Core(l2=c.l2)
            functions[f"f{i}"] = conv_amx_pooled(c.spec, epilogue, Isa.AMX, c.threads, c.plan, core)
        module = compile_functions(functions, MCPU[Isa.AMX])
        for i, case in enumerate(batch):
            compare(module[f"f{i}"], case)

    sweep()


def compare(function, case: Case) -> None:
    spec, rng = case.spec, np.random.default_rng(case.seed)
    data, weights = operands(spec, case.seed)
    largest = weights[0].size * 2**17
    sums = convolve(spec, data, weights)
    stages = Epilogue(STAGES[case.stages])
    first = epilogue_params(rng, stages, sums.shape, largest)
    (value,) = finish(stages, sums, first)
    pooled = max_pooled(value.astype(np.int64), case.pool)
    second = epilogue_params(rng, Epilogue(stores=STORES), pooled.shape, largest)
    outputs = finish(Epilogue(stores=STORES), pooled, second)
    inputs = [data, amx_layout(spec, case.plan.codes).pack(weights), *first, *second]
    got = call(function, inputs, [np.full_like(o, 99) for o in outputs])
    for want, have in zip(outputs, got, strict=True):
        differing = np.count_nonzero(want != have)
        assert differing == 0, f"{differing} of {want.size} differ: {case}"


@pytest.mark.parametrize(
    ("stages", "count"),
    [
        ((), 0),
        ((AddBias(), Relu()), 0),
        ((MultiplyShift(Scaling("shift")), Relu()), 0),
        ((AddBias(), MultiplyShift(), Relu()), 2),
        ((MultiplyShift(Scaling("high")), AddBias()), 1),
        ((Relu(), SkipAdd(), Relu()), 2),
    ],
)
def test_what_keeps_order_comes_after_the_pool(stages, count):
    before, after = around_pool(Epilogue(stages, STORES, POOLS[0]))
    assert before == Epilogue(stages[:count], ())
    assert after == Epilogue(stages[count:], STORES)
