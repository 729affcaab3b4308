"""What the compiler makes of the kernels for ARM: the instructions meant, no others, and no more cycles than
the multipliers take.
"""

import re
from dataclasses import replace

import pytest
from arm_runner import MACHINES, compile_arm
from hypothesis import given
from hypothesis import strategies as st
from needs import need

from aqd_deploy import targets
from aqd_deploy.bench.inner_loops import simulated_cycles
from aqd_deploy.kernels.contract.caches import Core
from aqd_deploy.kernels.contract.kernel import InnerLoop
from aqd_deploy.kernels.contract.spec import ConvSpec, Epilogue, MultiplyShift, Scaling
from aqd_deploy.kernels.cpu.conv.families import conv2d, conv_choices
from aqd_deploy.kernels.cpu.isa.assembly import busiest_loop, count
from aqd_deploy.kernels.cpu.isa.exactness import exact_sums
from aqd_deploy.kernels.cpu.isa.select import byte_dots, dots_for, tile_dots
from aqd_deploy.kernels.cpu.movement.pointwise import epilogue_func
from aqd_deploy.targets.isa import Isa

SAME = {"kernel": (3, 3), "pads": (1, 1, 1, 1)}
BITS4 = {"input_range": (0, 15), "weight_range": (-15, 15)}
BITS2 = {"input_range": (0, 3), "weight_range": (-3, 3)}
SYMMETRIC8 = {"input_range": (0, 255), "weight_range": (-127, 127)}
BITS8 = {"input_range": (0, 255), "weight_range": (-128, 127)}
LARGE = ConvSpec(40, 40, 256, 256, **SAME, **BITS4)
FORMS = {**BITS4, "winograd": ("c4x4", "f2x2")}


def code(spec: ConvSpec, isa: Isa, family: str) -> str:
    """The assembly of the family's first choice."""
    choice = next(c for c in conv_choices(spec, isa, 1) if c.family == family)
    return compile_arm({"conv": conv2d(spec, Epilogue(), isa, 1, choice).prim_func}, isa).inspect_source("s")


def busiest(assembly: str, instruction: str) -> list[str]:
    """The body of the innermost loop with the most of an instruction (a regular expression)."""
    return busiest_loop(assembly, lambda lines: count(lines, instruction))


GEOMETRIES = {
    "blocked": [ConvSpec(9, 9, 64, 48, **SAME, **bits) for bits in (BITS4, BITS8)],
    "grouped": [ConvSpec(6, 6, 32, 32, **SAME, group=16, **bits) for bits in (BITS4, BITS8)],
    "winograd": [ConvSpec(9, 9, 64, 48, **SAME, **FORMS)],
}


@pytest.mark.parametrize("family", GEOMETRIES)
def test_dot_products_where_the_cpu_has_them(family):
    for spec in GEOMETRIES[family]:
        body = busiest(code(spec, Isa.DOTPROD, family), "sdot")
        assert count(body, "sdot") >= 6, body
        # No other products of vectors there.
        assert count(body, r"[su]?ml[as]l?2?|[su]mull2?|mul\s+v\d+.*,") == 0


@pytest.mark.parametrize(("ranges", "instruction"), [(BITS4, "smmla"), (BITS8, "usmmla")])
def test_matrices_where_the_cpu_multiplies_them(ranges, instruction):
    spec = ConvSpec(9, 9, 64, 48, **SAME, **ranges)
    body = busiest(code(spec, Isa.I8MM, "blocked"), instruction)
    assert count(body, instruction) >= 6, body
    assert count(body, "[su]dot|[su]ml[as]l?2?|[su]mull2?") == 0
    assert not re.search(r"\tu?smmla\t", code(spec, Isa.DOTPROD, "blocked"))


@pytest.mark.parametrize("isa", [Isa.NEON, Isa.NEON32])
@pytest.mark.parametrize("family", GEOMETRIES)
def test_none_where_it_would_trap(isa, family):
    for spec in GEOMETRIES[family]:
        text = code(spec, isa, family)
        assert not re.search(r"\bv?[su]u?dot\b", text)
        assert re.search(r"\tv?(smlal|smull|mlal\.s|mull\.s)", text), "the products are not NEON's"


@pytest.mark.parametrize("isa", MACHINES)
def test_lanes_of_one_load_are_multiplied(isa):
    """Samples of neighbouring steps come in one register; a load for each would be one more a product."""
    body = busiest(code(LARGE, isa, "blocked"), r"sdot|u?smmla|sadalp|vpadal\.s16")
    assert count(body, r"ld1r.*|vld1\.\d+\s+\{d\d+\[\]\}.*") == 0


BOARDS = {
    "cortex-a76": targets.get("raspberrypi-5"),
    "cortex-a72": targets.get("raspberrypi-4"),
    "neoverse-v1": targets.get("graviton3"),
}
# Instructions of the multiplier, how many of them a cycle, in the model of the CPU.
BUDGETS = [
    ("cortex-a76", Isa.DOTPROD, BITS8, "blocked", "sdot", 2),
    ("cortex-a76", Isa.DOTPROD, BITS4, "blocked", "sdot", 2),
    ("cortex-a76", Isa.DOTPROD, FORMS, "winograd", "sdot", 2),
    ("cortex-a72", Isa.NEON, BITS4, "blocked", "smlal2?", 1),
    ("cortex-a72", Isa.NEON, BITS8, "blocked", "smull2?", 1),
    ("cortex-a72", Isa.NEON, SYMMETRIC8, "blocked", "smull2?|smlal2?", 1),
    # Sixteen bytes a product, every other cycle.
    ("cortex-a72", Isa.NEON, BITS2, "bytes", "mla", 0.5),
    ("cortex-a72", Isa.NEON, {**BITS8, "winograd": ("f4x4_wide",)}, "winograd", "smlal2?", 1),
]


@pytest.mark.parametrize(("cpu", "isa", "ranges", "family", "instruction", "rate"), BUDGETS)
def test_the_inner_loop_takes_hardly_more_than_its_products(cpu, isa, ranges, family, instruction, rate):
    need("llvm-mca")
    spec = ConvSpec(40, 40, 256, 256, **SAME, **ranges)
    body = busiest(code(spec, isa, family), instruction)
    products = count(body, instruction)
    assert products >= 16
    cycles = simulated_cycles(InnerLoop(tuple(body), 0), BOARDS[cpu])
    assert cycles * rate <= 1.25 * products, f"{cycles} cycles for {products} products"


def test_matrices_multiply_more_in_a_cycle():
    """Than `sdot`, in whatever model of the CPU there is: older ones have one load a cycle, not three."""
    need("llvm-mca")
    rates = []
    for isa, instruction, macs in ((Isa.DOTPROD, "sdot", 16), (Isa.I8MM, "smmla", 32)):
        body = busiest(code(LARGE, isa, "blocked"), instruction)
        cycles = simulated_cycles(InnerLoop(tuple(body), 0), BOARDS["neoverse-v1"])
        rates.append(count(body, instruction) * macs / cycles)
    assert rates[1] >= 1.2 * rates[0], rates


@pytest.mark.parametrize(
    ("isa", "product"), [(Isa.NEON, "smlal2?|smull2?"), (Isa.NEON32, r"vm[lu]*[al]l\.s32")]
)
@pytest.mark.parametrize("form", ["high", "wide"])
def test_products_of_64_bits_are_vectors(isa, product, form):
    """Four values are two instructions, and nothing is multiplied outside of vector registers."""
    epilogue = Epilogue((MultiplyShift(Scaling(form)),))
    text = compile_arm({"f": epilogue_func(1, 1, 64, epilogue, isa, 1)}, isa).inspect_source("s").splitlines()
    # For sixteen values.
    assert count(text, product) == 8
    assert count(text, "umull|mla|mul|madd") == 0


@given(
    st.tuples(st.integers(-128, 127), st.integers(0, 255)),
    st.tuples(st.integers(-128, 127), st.integers(0, 255)),
)
def test_the_bound_of_sums_is_safe_and_tight(samples, weights):
    (low, span), (first, wide) = samples, weights
    s, w = (low, min(127, low + span)), (first, min(127, first + wide))
    steps = exact_sums(s, w)
    ends = [a * b for a in s for b in w]
    assert all(-(2**15) <= steps * end < 2**15 for end in ends)
    if any(ends):
        assert not all(-(2**15) <= (steps + 1) * end < 2**15 for end in ends)


@pytest.mark.parametrize(
    ("inputs", "weights", "offset", "steps"),
    [
        ((0, 15), (-15, 15), 0, 145),
        ((0, 3), (-3, 3), 0, 3640),
        ((0, 127), (-15, 15), 0, 17),
        ((0, 255), (-15, 15), -128, 17),
        ((0, 255), (-128, 127), -128, 0),
        ((-8, 7), (-8, 7), 0, 511),
    ],
)
def test_what_the_ranges_allow(inputs, weights, offset, steps):
    spec = ConvSpec(
        8, 8, 64, 64, (1, 1), input_signed=inputs[0] < 0, input_range=inputs, weight_range=weights
    )
    for isa in (Isa.NEON, Isa.NEON32):
        dots = dots_for(spec, isa)
        assert (dots.name, dots.offset, dots.partial_steps) == ("smlal", offset, steps)
        assert ("fit 16 bits" in dots.reason) == (steps > 0)
    dots = dots_for(spec, Isa.DOTPROD)
    assert (dots.name, dots.offset, dots.partial_steps) == ("sdot", offset, 0)
    assert dots.converts(spec) == (offset != 0)
    tiles = tile_dots(spec, Isa.I8MM)
    assert (tiles.name == "usmmla") == (offset != 0)
    assert not tiles.converts(spec)


@pytest.mark.parametrize(
    ("inputs", "weights", "steps"),
    [((0, 3), (-3, 3), 14), ((0, 3), (-2, 1), 21), ((0, 1), (-1, 1), 127), ((-2, 1), (-3, 0), 21)],
)
def test_what_eight_bits_hold(inputs, weights, steps):
    spec = ConvSpec(
        8, 8, 64, 64, (1, 1), input_signed=inputs[0] < 0, input_range=inputs, weight_range=weights
    )
    dots = byte_dots(spec, Isa.NEON)
    assert (dots.name, dots.partial_steps) == ("mla", steps)
    slow, fast = (byte_dots(spec, Isa.NEON, Core(in_order=small)).product_cycles for small in (False, True))
    assert slow == 2 * fast


@pytest.mark.parametrize("ranges", [BITS4, BITS8, {"input_range": (0, 255), "weight_range": (0, 0)}])
def test_what_they_do_not(ranges):
    spec = ConvSpec(8, 8, 64, 64, (1, 1), **ranges)
    assert byte_dots(spec, Isa.NEON) is None
    assert byte_dots(replace(spec, input_range=(0, 3), weight_range=(-3, 3)), Isa.DOTPROD) is None


def test_small_cores_add_in_eight_bits():
    """Where `mla` of sixteen bytes takes as long as `smlal` of eight."""
    spec = ConvSpec(40, 40, 256, 256, **SAME, **BITS2)
    families = [conv_choices(spec, Isa.NEON, 1, Core(in_order=small))[0].family for small in (True, False)]
    assert families == ["bytes", "blocked"]


def test_two_products_are_added_before_they_are_widened():
    body = busiest(code(replace(LARGE, **SYMMETRIC8), Isa.NEON, "blocked"), "smull2?|smlal2?")
    assert count(body, "smull2?") == count(body, "smlal2?") == count(body, "sadalp") > 0


def test_padding_counts_as_a_sample():
    spec = ConvSpec(8, 8, 4, 64, **SAME, pad_values=(200, 0, 0, 0), **BITS4)
    assert dots_for(spec, Isa.DOTPROD).offset == -128
    need_no_shift = ConvSpec(8, 8, 4, 64, **SAME, pad_values=(127, 0, 0, 0), **BITS4)
    assert dots_for(need_no_shift, Isa.DOTPROD).offset == 0
