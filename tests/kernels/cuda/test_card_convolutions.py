"""Every tile and family of convolutions on a card, emulated: zero differing integers against numpy.

What breaks a kernel, a barrier left out or a wrong fragment, has to be seen: the emulation would prove
nothing otherwise.
"""

from dataclasses import replace

import numpy as np
import pytest
from card_convolutions import (
    BOUNDS,
    CODED_SKIP,
    CODES,
    GATED,
    HALVES,
    SKIP,
    STREAM,
    TABLE,
    WIDE_SKIP,
    AsChosen,
    Case,
    first_channels,
    prepared,
)
from card_emulation import SETTINGS, EmulatedDriver, build, container_of
from conv_cases import NETWORK

from aqd_deploy.compiler.launch_section import functions_of
from aqd_deploy.compiler.launches import build_launches
from aqd_deploy.kernels.contract.spec import (
    ConvSpec,
    Epilogue,
    StoreStream,
)
from aqd_deploy.kernels.cuda.tiles import TILES, Chosen, Walk
from aqd_deploy.runtime.card_program import CardProgram


def spec_for(walk: Walk, step: int, columns: int, odd: bool) -> ConvSpec:
    """One that the walk applies to: two tiles of rows and of columns, the last of each not full."""
    match walk:
        case Walk.HALO:
            return ConvSpec(18, 16, step, columns + 20, (3, 3), pads=(1, 1, 1, 1), odd=odd)
        case Walk.CHUNK:
            return ConvSpec(34, 16, step, columns + 20, (3, 2), (2, 1), (1, 0, 1, 1), odd=odd)
        case Walk.MIXED:
            return ConvSpec(18, 16, 20, columns + 20, (5, 3), pads=(2, 2, 2, 0), dilations=(1, 2), odd=odd)


def tile_cases():
    for index, tile in enumerate(TILES):
        walks = (Walk.HALO,) if tile.halo else (Walk.CHUNK, Walk.MIXED)
        for walk in walks:
            epilogue = (CODES, STREAM, SKIP)[index % 3]
            if tile.warpgroups:
                epilogue = SKIP if tile.columns == 64 else (CODES, STREAM)[index % 2]
            splits = 3 if not tile.warpgroups and tile.split == 1 and index % 2 else 1
            spec = spec_for(walk, tile.step, tile.columns, index % 2 == 1 and not tile.packed)
            if tile.packed:
                spec = replace(spec, **HALVES[index % 3])
            name = f"{tile.family}-{tile.rows}x{tile.columns}x{tile.step}-{walk.value}"
            yield name, Case(spec, epilogue, Chosen(tile, walk, splits, 0.0))


PYRAMID = ConvSpec(29, 1, 64, 40, (3, 3), pads=(1, 1, 1, 1), levels=((4, 4), (3, 3), (2, 2)))
CASES = {
    **{f"{tile} {index}": case for index, (tile, case) in enumerate(tile_cases())},
    **{f"network {name}": Case(spec, STREAM) for name, spec in NETWORK.items()},
    "network codes": Case(NETWORK["3x3"], CODES),
    "skip with an upsampled stream": Case(ConvSpec(12, 8, 64, 32, (1, 1)), WIDE_SKIP),
    "bounds": Case(NETWORK["3x3"], BOUNDS),
    "skip of codes with a sign, upsampled": Case(ConvSpec(12, 8, 64, 32, (1, 1)), CODED_SKIP),
    "codes through a table": Case(NETWORK["grouped"], TABLE),
    "products with a map and with a pixel": Case(NETWORK["3x3"], GATED),
    "products behind a depthwise convolution": Case(NETWORK["depthwise odd"], GATED),
    "pyramid": Case(PYRAMID, CODES),
    "pyramid of ten levels": Case(
        replace(PYRAMID, height=40, levels=((2, 2),) * 10), Epilogue((), (StoreStream(),))
    ),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Every case, with all kernels in one library: (plan, launches, runs) by name, and the library."""
    made, functions = {}, {}
    for name, case in CASES.items():
        # A stack of maps has each with all its images, which no input has.
        images = 1 if case.spec.levels else 2
        plan, runs = prepared(case, images)
        launches = build_launches(plan, AsChosen(case.chosen), images)
        made[name] = plan, launches, runs
        functions.update(dict.fromkeys(functions_of(launches)))
    library = build(list(functions), tmp_path_factory.mktemp("kernels"))
    return made, list(functions), library


def differing(plan, launches, runs, library, numbers, setting) -> int:
    container = container_of(plan, launches, len(runs))
    section = container.manifest["program"]["launches"]
    for call in (*section["prepare"], *section["run"]):
        call["function"] = numbers[call["function"]]
    section["functions"] = ["k"] * (max(numbers) + 1)
    program = CardProgram(container, EmulatedDriver(library, *setting))
    stacked = [np.stack([first_channels(arrays[i]) for arrays, _ in runs]) for i in range(len(plan.inputs))]
    got = program.run(dict(zip(plan.inputs, stacked, strict=True)))
    wanted = [np.stack([first_channels(outputs[i]) for _, outputs in runs]) for i in range(len(plan.outputs))]
    return sum(int((got[name] != want).sum()) for name, want in zip(plan.outputs, wanted, strict=True))


@pytest.mark.parametrize("setting", SETTINGS, ids=["in order, early", "backwards, late"])
@pytest.mark.parametrize("name", CASES)
def test_a_convolution_gives_the_integers_of_numpy(name, setting, built):
    made, functions, library = built
    plan, launches, runs = made[name]
    numbers = [functions.index(function) for function in functions_of(launches)]
    assert differing(plan, launches, runs, library, numbers, setting) == 0


FAULTS = {
    1: ("mma", "no barrier in the pipeline"),
    2: ("mma", "a wrong fragment"),
    3: ("mma", "a group of copies too few waited for"),
    4: ("wgmma", "no wait for an empty stage"),
    5: ("wgmma", "a wrong part of the columns"),
    6: ("wgmma", "no wait for a full stage"),
    7: ("mma4", "a wrong half of a byte"),
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: FAULTS[fault][1])
def test_a_broken_kernel_is_seen(fault, tmp_path):
    family = FAULTS[fault][0]
    tile = next(tile for tile in TILES if tile.family == family and tile.halo and tile.columns == 64)
    spec = ConvSpec(18, 16, 128, 64, (3, 3), pads=(1, 1, 1, 1))
    spec = replace(spec, **HALVES[0]) if tile.packed else spec
    case = Case(spec, CODES, Chosen(tile, Walk.HALO, 1, 0.0))
    plan, runs = prepared(case, images=1)
    launches = build_launches(plan, AsChosen(case.chosen), 1)
    library = build(functions_of(launches), tmp_path, f"-DAQD_BREAK={fault}")
    numbers = list(range(len(functions_of(launches))))

    def seen(setting):
        try:
            return differing(plan, launches, runs, library, numbers, setting) > 0
        except AssertionError as error:
            return "is stuck" in str(error)

    assert any(seen(setting) for setting in SETTINGS)
