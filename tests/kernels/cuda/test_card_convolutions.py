"""Every tile and family of convolutions on a card, emulated: zero differing integers against numpy.

What breaks a kernel, a barrier left out or a wrong fragment, has to be seen: the emulation would prove
nothing otherwise.
"""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from card_emulation import SETTINGS, EmulatedDriver, build, container_of
from conv_cases import NETWORK, operands
from kernel_reference import convolve, epilogue_params, finish

from aqd_deploy.compiler.launch_section import functions_of
from aqd_deploy.compiler.launches import build_launches
from aqd_deploy.compiler.plan import Conv, Plan, ToChannelsFirst, ToChannelsLast, border
from aqd_deploy.integer.types import TensorType
from aqd_deploy.kernels.contract.spec import (
    AddBias,
    Bound,
    ConvSpec,
    Epilogue,
    Lookup,
    Multiply,
    MultiplyShift,
    Relu,
    Requantize,
    SkipAdd,
    SkipAddCodes,
    StoreCodes,
    StoreRequantize,
    StoreStream,
    StoreThreshold,
    Threshold,
)
from aqd_deploy.kernels.cuda.backend import CudaBackend
from aqd_deploy.kernels.cuda.cards import card_named
from aqd_deploy.kernels.cuda.chain import chain_of
from aqd_deploy.kernels.cuda.conv import matrix_conv, walks_of
from aqd_deploy.kernels.cuda.tiles import TILES, Chosen, Walk
from aqd_deploy.runtime.card_program import CardProgram

CARD = "sm_90a"
CODES = Epilogue((), (StoreRequantize(0, 15),))
SKIP = Epilogue(
    (AddBias(), SkipAdd(other_identity=True), Relu()), (StoreStream(), StoreRequantize(-8, 7, "int8"))
)
WIDE_SKIP = Epilogue((MultiplyShift(), SkipAdd(upsample=2)), (StoreRequantize(2, 250), StoreThreshold(0, 3)))
STREAM = Epilogue((AddBias(),), (StoreStream(),))
BOUNDS = Epilogue(
    (Bound(upper=False), Bound(upper=True)), (StoreStream(), StoreRequantize(-128, 127, "int8"))
)
CODED_SKIP = Epilogue(
    (Requantize(-128, 127, "int8"), SkipAddCodes(2, other_identity=True, dtype="int8")), (StoreStream(),)
)
TABLE = Epilogue((Threshold(3, 5), SkipAddCodes(), Requantize(0, 255), Lookup("int8")), (StoreCodes("int8"),))
GATED = Epilogue(
    (
        Requantize(0, 200),
        Multiply(7, -3, "int8", one_pixel=True),
        Requantize(0, 255),
        Lookup(),
        Multiply(0, 9),
    ),
    (StoreStream(), StoreRequantize(0, 255)),
)


@dataclass(frozen=True)
class Case:
    """A convolution, its epilogue, and the tile, walk and splits to build it with (None: as chosen)."""

    spec: ConvSpec
    epilogue: Epilogue
    chosen: Chosen | None = None


def spec_for(walk: Walk, step: int, columns: int, odd: bool) -> ConvSpec:
    """One that the walk applies to: two tiles of rows and of columns, the last of each not full."""
    match walk:
        case Walk.HALO:
            return ConvSpec(18, 16, step, columns + 20, (3, 3), pads=(1, 1, 1, 1), odd=odd)
        case Walk.CHUNK:
            return ConvSpec(34, 16, step, columns + 20, (3, 2), (2, 1), (1, 0, 1, 1), odd=odd)
        case Walk.MIXED:
            return ConvSpec(18, 16, 20, columns + 20, (5, 3), pads=(2, 2, 2, 0), dilations=(1, 2), odd=odd)


# Operands of 4 bits: AQD's grids of 4 and 3 bits, and codes with a sign.
HALVES = (
    {"input_range": (0, 15), "weight_range": (-15, 15), "weight_step": 2},
    {"input_range": (0, 15), "weight_range": (-7, 7), "weight_step": 2},
    {"input_range": (-8, 7), "weight_range": (-7, 7), "input_signed": True},
)


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


class AsChosen(CudaBackend):
    """Builds one convolution with a given choice."""

    def __init__(self, chosen: Chosen | None) -> None:
        super().__init__(CARD)
        object.__setattr__(self, "chosen", chosen)

    def convolution(self, spec, epilogue, constants, images, border=None):
        if self.chosen is None:
            return super().convolution(spec, epilogue, constants, images, border)
        assert self.chosen.walk in walks_of(spec, self.chosen.tile.step)
        chain = chain_of(epilogue, constants, len(spec.levels) or 1, len(spec.maps), border)
        return matrix_conv(spec, chain, images, self.chosen, card_named(CARD))


def plan_of(case: Case, weights: np.ndarray, params: list[np.ndarray]) -> Plan:
    """A network of one convolution, whose other operands are inputs."""
    spec, epilogue = case.spec, case.epilogue
    out = (spec.out_height, spec.out_width, spec.out_channels)
    dtype = "int8" if spec.input_signed else "uint8"
    tensors = {"x": TensorType(spec.height, spec.width, spec.in_channels, dtype)}
    given, inputs = [], ["x"]
    for param in params:
        if param.ndim == 3:
            inputs.append(f"other{len(inputs)}")
            tensors[inputs[-1]] = TensorType(*param.shape, str(param.dtype))
            given.append(inputs[-1])
        else:
            given.append(param)
    outputs = []
    for index, store in enumerate(epilogue.stores):
        outputs.append(f"out{index}")
        tensors[outputs[-1]] = TensorType(*out, "int32" if isinstance(store, StoreStream) else store.dtype)
    conv = Conv("conv", "x", "w", spec, epilogue, tuple(given), tuple(outputs))
    plan = Plan(inputs, outputs, [conv], tensors, {"w": weights})
    last = [ToChannelsLast(name, border(name), name) for name in inputs]
    first = [ToChannelsFirst(name, name, (0,), (border(name),)) for name in outputs]
    borders = {border(name): plan.tensors[name] for name in (*inputs, *outputs)}
    return replace(plan, operations=[*last, *plan.operations, *first], tensors={**plan.tensors, **borders})


def prepared(case: Case, images: int):
    """The plan, the inputs of every image, and the outputs that they must have."""
    rng = np.random.default_rng(len(str(case)))
    data, weights = operands(case.spec, rng, extreme=False)
    acc = convolve(case.spec, data, weights).astype(np.int64)
    params = epilogue_params(rng, case.epilogue, acc.shape, int(np.abs(acc).max()) or 1)
    levels = len(case.spec.levels) or 1
    tiled = [param if param.ndim == 3 else np.tile(param, levels) for param in params]
    runs = []
    for image in range(images):
        data = operands(case.spec, rng, extreme=image == 1)[0] if image else data
        acc = convolve(case.spec, data, weights).astype(np.int64)
        arrays = [data, *(param for param in params if param.ndim == 3)]
        runs.append((arrays, finish(case.epilogue, acc, params)))
    return plan_of(case, weights, tiled), runs


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


def first_channels(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.transpose(2, 0, 1))


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
