"""No thread of a card's kernels reads or writes what another one writes, unless a barrier, wait or fence is
between; and where one is taken out, the line is told.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
from card_convolutions import CODES, HALVES, SKIP, STREAM, AsChosen, Case, first_channels, prepared
from card_emulation import container_of
from card_races import RecordingDriver, races
from small_models import every_operation, parallel_network, random_image, tiny_network

from aqd_deploy.compiler.launch_section import functions_of
from aqd_deploy.compiler.launches import build_launches
from aqd_deploy.compiler.planning import plan_for_card
from aqd_deploy.kernels.contract.spec import ConvSpec
from aqd_deploy.kernels.cuda.backend import CudaBackend
from aqd_deploy.kernels.cuda.tiles import TILES, Chosen, Walk
from aqd_deploy.runtime.card_program import CardProgram


def tile(family: str, walk: Walk, columns: int = 64):
    """The smallest one of a family."""
    found = [
        each for each in TILES
        if (each.family, each.halo, each.columns) == (family, walk is Walk.HALO, columns)
    ]  # fmt: skip
    return min(found, key=lambda each: each.rows)


def conv(
    family: str, walk: Walk, *, splits: int = 1, height: int = 13, epilogue=CODES, columns: int = 64,
    chunks: int = 1, **more,
):  # fmt: skip
    """A convolution of two tiles of rows, the second one not full, and so many chunks of channels."""
    chosen = tile(family, walk, columns)
    spec = ConvSpec(height, 8, chunks * chosen.step, 20, (3, 3), pads=(1, 1, 1, 1), **more)
    return Case(spec, epilogue, Chosen(chosen, walk, splits, 0.0))


CASES = {
    "mma, blocks that share a tile": conv("mma", Walk.HALO, splits=2),
    "wgmma": conv("wgmma", Walk.HALO, height=20, epilogue=SKIP),
}
MORE = {
    "mma, parts that share a depth": conv("mma", Walk.CHUNK, height=9, epilogue=STREAM),
    "mma4": conv("mma4", Walk.HALO, **HALVES[0]),
    "mma4, chunks": conv("mma4", Walk.CHUNK, epilogue=SKIP, **HALVES[1]),
    "wgmma, chunks": conv("wgmma", Walk.CHUNK, columns=128, height=20),
    "wgmma, 256 columns": conv("wgmma", Walk.CHUNK, columns=256, height=33, epilogue=STREAM),
    "grouped": Case(ConvSpec(9, 8, 32, 32, (3, 3), pads=(1, 1, 1, 1), group=4), SKIP),
    "depthwise": Case(ConvSpec(9, 8, 32, 32, (3, 3), pads=(1, 1, 1, 1), group=32), CODES),
}


def watched(cases, folder, *flags):
    """What is told of each case."""
    made = []
    for case in cases:
        plan, runs = prepared(case, images=1)
        launches = build_launches(plan, AsChosen(case.chosen), 1)
        arrays = [np.stack([first_channels(each)]) for each in runs[0][0]]
        made.append((plan, launches, dict(zip(plan.inputs, arrays, strict=True))))
    return watched_plans(made, folder, *flags)


def watched_plans(made, folder, *flags):
    functions = list(dict.fromkeys(each for _, launches, _ in made for each in functions_of(launches)))
    drivers = []
    for plan, launches, inputs in made:
        drivers.append(RecordingDriver([functions.index(each) for each in functions_of(launches)]))
        CardProgram(container_of(plan, launches), drivers[-1]).run(inputs)
    return races(functions, drivers, folder, *flags)


def test_convolutions_have_no_races(tmp_path):
    assert watched(CASES.values(), tmp_path) == [""] * len(CASES)


@pytest.mark.matrix
def test_other_convolutions_have_no_races(tmp_path):
    assert watched(MORE.values(), tmp_path) == [""] * len(MORE)


@pytest.mark.matrix
def test_networks_have_no_races(tmp_path):
    """Movement, pools, epilogues alone, and convolutions as the estimate chooses them."""
    made = []
    for model in (tiny_network(), parallel_network(), every_operation()):
        plan = plan_for_card(model)
        made.append((plan, build_launches(plan, CudaBackend("sm_90a"), 1), random_image(model, 1)))
    assert watched_plans(made, tmp_path) == [""] * len(made)


FAULTS = {
    1: ("mma", r"Products<.*::load\(.*conv_mma\.cuh:\d+"),  # no barrier in the pipeline
    3: ("mma", r"conv_mma\.cuh:\d+"),  # a group of copies too few waited for
    8: ("mma", r"aqd_join_blocks<.*conv_mma\.cuh:\d+"),  # no fence between blocks
    6: ("wgmma", r"conv_wg\.cuh:\d+"),  # no wait for a full stage
}


@pytest.mark.parametrize(
    "fault", [1, *(pytest.param(each, marks=pytest.mark.matrix) for each in FAULTS if each != 1)]
)
def test_a_barrier_that_is_taken_out_is_told_with_its_line(fault, tmp_path):
    family, place = FAULTS[fault]
    # Enough steps for every stage to be filled again.
    splits = 2 if fault == 8 else 1
    case = conv(family, Walk.HALO, height=20 if family == "wgmma" else 13, chunks=2, splits=splits)
    (told,) = watched([case], tmp_path, f"-DAQD_BREAK={fault}")
    assert "WARNING: ThreadSanitizer: data race" in told
    assert re.search(place, told)
