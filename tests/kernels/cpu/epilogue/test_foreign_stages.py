"""Sums and products of codes, tables and clips in epilogues, against numpy."""

import numpy as np
import pytest
from kernel_reference import MCPU, call, compile_functions, host_runs
from word_cases import epilogue_cases, pieces_cases, steps_cases

from aqd_deploy.kernels.contract.cells import MOST_CELLS, cell_table

ISAS = [isa for isa in MCPU if host_runs(isa)]


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.value)
@pytest.mark.parametrize("cases", [epilogue_cases, steps_cases, pieces_cases])
def test_stages(cases, isa):
    found = list(cases(isa, 2))
    module = compile_functions({f"f{i}": case[1] for i, case in enumerate(found)}, MCPU[isa])
    for i, (label, _, inputs, expected) in enumerate(found):
        got = call(module[f"f{i}"], inputs, [np.full_like(e, 99) for e in expected])
        for e, g in zip(expected, got, strict=True):
            np.testing.assert_array_equal(g, e, err_msg=label)


@pytest.mark.parametrize("span", [1, 100, 10**5, 2**32 - 1])
def test_cells_are_few_and_hold_few_thresholds(span):
    low = -(2**31) if span > 2**31 else -7
    thresholds = np.sort(low + np.random.default_rng(1).integers(0, span + 1, 200)).astype(np.int32)
    stage, (header, table, codes) = cell_table(thresholds, np.arange(201))
    assert stage.cells <= MOST_CELLS + 1 and stage.most <= 3
    assert len(table) == stage.cells * stage.most and len(codes) == stage.cells * (stage.most + 1)
    assert header[0] <= thresholds[0] and header[1] == thresholds[-1]
