"""Convolutions on AMX return the integers of the numpy reference, however they are cut.

Everything is compiled on any machine; it runs where the CPU has AMX and the kernel lets us use it.
"""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from amx_cases import operands, plans_of, specs
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from kernel_reference import (
    MCPU,
    assembly,
    call,
    compile_functions,
    convolve,
    epilogue_params,
    finish,
    host_runs,
)

from aqd_deploy.errors import ShapeError
from aqd_deploy.kernels.contract.caches import CORE, Core
from aqd_deploy.kernels.contract.spec import (
    AddBias,
    ConvSpec,
    Epilogue,
    MultiplyShift,
    Relu,
    SkipAdd,
    StoreRequantize,
    StoreStream,
    StoreThreshold,
)
from aqd_deploy.kernels.cpu.amx.conv import amx_layout, conv_amx, weight_codes
from aqd_deploy.kernels.cpu.amx.frame import Frame
from aqd_deploy.kernels.cpu.amx.peak import tile_peak
from aqd_deploy.kernels.cpu.amx.plan import Plan, plans
from aqd_deploy.kernels.cpu.conv.families import conv2d, conv_choices
from aqd_deploy.kernels.cpu.isa.assembly import inner_loop
from aqd_deploy.targets.isa import Isa

needs_amx = pytest.mark.skipif(not host_runs(Isa.AMX), reason="this machine has no AMX")
CASES = 4
EPILOGUES = {
    "stream": Epilogue((AddBias(),)),
    "all stores": Epilogue(
        (AddBias(), MultiplyShift(), Relu()), (StoreStream(), StoreRequantize(0, 15), StoreThreshold(0, 2))
    ),
    "skip": Epilogue((SkipAdd(),), (StoreStream(), StoreRequantize(-8, 7, "int8"))),
    "upsampled skip": Epilogue((SkipAdd(upsample=2, self_identity=True),), (StoreRequantize(0, 255),)),
}


@dataclass(frozen=True)
class Case:
    spec: ConvSpec
    plan: Plan
    epilogue: str
    threads: int
    seed: int


KINDS = {
    "3x3": specs([(3, 3)], [(1, 1)], [16, 64, 128]),
    "strided": specs([(3, 3), (2, 3)], [(2, 2), (2, 1), (3, 2)], [20, 64]),
    "1x1": specs([(1, 1)], [(1, 1), (1, 1), (2, 2)], [64, 128, 100]),
    "stem": specs([(7, 7), (6, 6), (5, 5), (3, 3)], [(1, 1), (2, 2), (3, 2)], [1, 3, 4]),
    "short": specs([(3, 1), (4, 1), (2, 3)], [(1, 1), (2, 1)], [8, 16]),
}


@st.composite
def cases(draw, kind: str) -> Case:
    spec = draw(KINDS[kind])
    names = [name for name in EPILOGUES if fits(spec, name)]
    return Case(
        spec,
        draw(plans_of(spec)),
        draw(st.sampled_from(names)),
        draw(st.integers(1, 3)),
        draw(st.integers(0, 2**31)),
    )


def fits(spec: ConvSpec, name: str) -> bool:
    """Upsampling needs one map with sides that two divides."""
    return name != "upsampled skip" or not (spec.levels or spec.out_height % 2 or spec.out_width % 2)


def expected(case: Case, data: np.ndarray, weights: np.ndarray):
    """Outputs and the epilogue's parameters; those of levels are rows a level."""
    spec, epilogue = case.spec, EPILOGUES[case.epilogue]
    rng = np.random.default_rng(case.seed)
    shape = (spec.out_height, spec.out_width, spec.out_channels)
    largest = weights[0].size * 2**17
    value = convolve(spec, data, weights)
    if not spec.levels:
        params = epilogue_params(rng, epilogue, shape, largest)
        return finish(epilogue, value, params), params
    # One row for all levels, since operands of a skip-add have none.
    params = epilogue_params(rng, epilogue, shape, largest)
    return finish(epilogue, value, params), [
        p if p.ndim == 3 else np.tile(p, len(spec.levels)) for p in params
    ]


@needs_amx
@pytest.mark.parametrize("kind", KINDS)
def test_no_integer_differs(kind):
    # Shrinking would compile for minutes, and a failure prints its case.
    @settings(max_examples=2, phases=[Phase.generate])
    @given(st.lists(cases(kind), min_size=CASES, max_size=CASES))
    def sweep(batch: list[Case]) -> None:
        functions = {
            f"f{i}": conv_amx(c.spec, EPILOGUES[c.epilogue], Isa.AMX, c.threads, c.plan)
            for i, c in enumerate(batch)
        }
        module = compile_functions(functions, MCPU[Isa.AMX])
        for i, case in enumerate(batch):
            data, weights = operands(case.spec, case.seed)
            outputs, params = expected(case, data, weights)
            inputs = [data, amx_layout(case.spec, case.plan.codes).pack(weights), *params]
            got = call(module[f"f{i}"], inputs, [np.full_like(o, 99) for o in outputs])
            for want, have in zip(outputs, got, strict=True):
                differing = np.count_nonzero(want != have)
                assert differing == 0, f"{differing} of {want.size} differ: {case}"

    sweep()


@needs_amx
@pytest.mark.parametrize(("bits", "codes"), [(4, 2), (2, 4)])
@pytest.mark.parametrize("weights_first", [False, True])
def test_weights_that_are_multiplied_once_are_expanded_a_few_steps_ahead(bits, codes, weights_first):
    largest = 2**bits - 1
    spec = ConvSpec(6, 11, 64, 80, (3, 3), pads=(1, 1, 1, 1), weight_range=(-largest, largest), weight_step=2)
    # Five blocks of channels, so the last item lacks one; a tile of pixels a task.
    plan = Plan(Frame.of(spec, 32).tiles, 2, 2, 2, weights_first, codes)
    function = conv_amx(spec, Epilogue((), (StoreStream(),)), Isa.AMX, 2, plan)
    module = compile_functions({"conv": function}, MCPU[Isa.AMX])
    data, weights = operands(spec, bits)
    out = np.full((6, 11, 80), 99, np.int32)
    (got,) = call(module["conv"], [data, amx_layout(spec, codes).pack(weights)], [out])
    assert np.array_equal(got, convolve(spec, data, weights))


HEAD = ConvSpec(
    2134, 1, 256, 80, (3, 3), pads=(1, 1, 1, 1), levels=((40, 40), (20, 20), (10, 10), (5, 5), (3, 3))
)
SQUARE = ConvSpec(40, 40, 256, 256, (3, 3), pads=(1, 1, 1, 1))


@pytest.mark.parametrize("signed", [False, True])
def test_the_loop_multiplies_tiles(signed):
    spec = ConvSpec(20, 20, 128, 128, (3, 3), pads=(1, 1, 1, 1), input_signed=signed)
    text = assembly(
        compile_functions({"conv": conv_amx(spec, Epilogue(), Isa.AMX, 1, Plan(1, 1))}, MCPU[Isa.AMX])
    )
    products = [line.split()[0] for line in text.splitlines() if line.startswith("\ttdp")]
    # Unrolled steps of four products; each operand is loaded once a step.
    assert set(products) == {"tdpbssd" if signed else "tdpbusd"} and len(products) % 4 == 0
    assert text.count("\ttileloadd") == len(products)
    assert text.count("\tldtilecfg") == text.count("\ttilerelease") == 1
    # Between the products lie the loops of the epilogue, so none of them is the innermost.
    assert inner_loop(text) is None


@pytest.mark.parametrize(("isa", "mcpu"), [(Isa.VNNI, "sapphirerapids"), (Isa.AVX2, "sapphirerapids")])
def test_no_other_instruction_set_has_tiles(isa, mcpu):
    kernel = conv2d(SQUARE, Epilogue(), isa, 1)
    text = assembly(compile_functions({"conv": kernel.prim_func}, mcpu))
    assert not [line for line in text.splitlines() if line.startswith(("\ttile", "\ttdp", "\tldtilecfg"))]


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_tiles_are_the_default_where_there_are_any(threads):
    for spec in (SQUARE, HEAD):
        first = conv_choices(spec, Isa.AMX, threads)[0]
        assert first.family == "amx"
        assert first["pixel_parts"] * first["channel_parts"] >= threads


def test_a_single_block_is_computed_by_four_tiles_of_pixels():
    few = replace(HEAD, out_channels=16)
    best = plans(few, amx_layout(few), (1,), 1, CORE)[0][1]
    assert (best.high, best.wide) == (4, 1)


def test_threads_share_out_pixels_where_maps_are_large_and_channels_where_weights_are():
    wide = ConvSpec(80, 80, 256, 64, (1, 1))
    best = plans(wide, amx_layout(wide), (1,), 2, CORE)[0][1]
    assert (best.pixel_parts % 2, best.channel_parts) == (0, 1)
    deep = ConvSpec(10, 10, 512, 512, (3, 3), pads=(1, 1, 1, 1))
    best = plans(deep, amx_layout(deep), (1,), 2, CORE)[0][1]
    assert (best.pixel_parts, best.channel_parts) == (1, 2)


def test_parts_cover_every_tile_once_and_copy_what_they_read():
    frame = Frame(HEAD, 32)
    for parts in (1, 2, 3, 7, frame.tiles):
        ranges = [frame.part(index, parts) for index in range(parts)]
        assert [lo for lo, _ in ranges] == [0, *(hi for _, hi in ranges[:-1])]
        assert ranges[-1][1] == frame.tiles
        for index in range(parts):
            rows = frame.rows_of(index, parts)
            assert all(0 <= lo <= hi <= m.rows for (lo, hi), m in zip(rows, frame.maps, strict=True))


@needs_amx
def test_the_peak_multiplies_what_it_says():
    peak = tile_peak(2, 3)
    module = compile_functions({"peak": peak.prim_func}, MCPU[Isa.AMX])
    weights = np.random.default_rng(1).integers(-128, 128, peak.weight_bytes).astype(np.int8)
    (out,) = call(module["peak"], [weights], [np.zeros(peak.outputs, np.int32)])
    samples = weights.view(np.uint8).reshape(16, 64).astype(np.int64)
    channels = weights.reshape(16, 16, 4).transpose(0, 2, 1).reshape(64, 16).astype(np.int64)
    assert np.array_equal(out.reshape(-1, 16, 16), np.stack([3 * samples @ channels] * 8))
    assert peak.macs == 2 * 3 * 4 * 16**2 * 64


def test_a_plan_is_its_parameters():
    plan = Plan(3, 2, 4, 1, True, 2)
    assert Plan.from_parameters(plan.parameters()) == plan


def test_small_weights_share_bytes():
    """Two of 4 bits, four of 2; none where zeros have no code or fill tiles."""
    grid = {"weight_range": (-15, 15), "weight_step": 2}
    assert weight_codes(replace(SQUARE, **grid)) == (1, 2)
    assert weight_codes(replace(SQUARE, weight_range=(-3, 3), weight_step=2)) == (1, 2, 4)
    assert weight_codes(replace(SQUARE, weight_range=(-15, 15))) == (1,)
    assert weight_codes(replace(SQUARE, in_channels=20, **grid)) == (1,)
    assert weight_codes(replace(SQUARE, weight_range=(-15, 15), weight_step=3)) == (1,)
    assert weight_codes(SQUARE) == (1,)
    with pytest.raises(ShapeError, match=r"do not fit these codes; got 2; valid: \(1,\)"):
        amx_layout(SQUARE, 2)
    # Deep layers on small maps wait for their weights.
    deep = replace(SQUARE, height=10, width=10, in_channels=512, out_channels=512, **grid)
    core = Core(l1d=48 << 10, l2=2 << 20)
    assert plans(deep, amx_layout(deep), weight_codes(deep), 1, core)[0][1].codes == 2


def test_the_frame_of_a_stem_is_cut_into_parts_that_stay_near():
    spec = ConvSpec(320, 320, 3, 32, (3, 3), (2, 2), (1, 1, 1, 1))
    best = plans(spec, amx_layout(spec), (1,), 1, CORE)[0][1]
    frame = Frame.of(spec, 16 * best.high)
    assert frame.plane_pixels(1) * frame.spec.in_channels > CORE.l2
    assert frame.plane_pixels(best.pixel_parts) * frame.spec.in_channels < CORE.l2


@pytest.mark.parametrize(
    ("kernel", "strides", "channels", "fold", "rows"),
    [
        ((7, 7), (2, 2), 3, 2, 4),
        ((7, 7), (2, 2), 1, 7, 1),
        ((6, 6), (2, 2), 3, 2, 3),
        ((3, 3), (2, 2), 3, 3, 1),
        ((3, 3), (1, 1), 3, 3, 1),
        ((5, 5), (3, 3), 3, 3, 2),
        ((5, 5), (1, 1), 3, 3, 2),
        ((3, 3), (2, 2), 16, 1, 3),
        ((11, 11), (4, 4), 3, 1, 11),
        ((1, 1), (1, 1), 3, 1, 1),
    ],
)
def test_kernel_rows_are_folded_as_far_as_that_saves_steps(kernel, strides, channels, fold, rows):
    spec = ConvSpec(40, 40, channels, 16, kernel, strides)
    layout = amx_layout(spec)
    assert (layout.fold, layout.rows) == (fold, rows)
    frame = Frame.of(spec, 32)
    assert (frame.spec.out_height, frame.spec.out_width) == (spec.out_height, spec.out_width)
    assert frame.spec.kernel[0] == rows


@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_a_kernel_row_is_summed_once_for_all_rows_that_meet_it(strides):
    """Odd weights of 8 bits take products with ones: of one row in each plane, however many there are."""

    def products(rows: int, odd: bool) -> int:
        spec = ConvSpec(16, 16, 64, 32, (rows, 3), strides, odd=odd, weight_range=(-128, 127))
        return str(conv_amx(spec, Epilogue(), Isa.AMX, 1, Plan(1, 1))).count("tdpbusd")

    more = [products(rows, True) - products(rows, False) for rows in (strides[0], 3, 5)]
    assert more[0] > 0 and len(set(more)) == 1
