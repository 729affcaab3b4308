"""Every form of a multiply-shift against Python's integers, at the edges of what the dialect allows."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_reference import MCPU, call, compile_functions, host_runs

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.integer.ranges import Interval
from aqd_deploy.kernels.contract.scaling import Constants, scale_requantize, scale_stream
from aqd_deploy.kernels.contract.spec import (
    Epilogue,
    MultiplyShift,
    Scaling,
    SkipAdd,
    StoreRequantize,
    StoreStream,
)
from aqd_deploy.kernels.cpu.emit import Emitter, const
from aqd_deploy.kernels.cpu.epilogue import fixed_point
from aqd_deploy.kernels.cpu.movement import pointwise
from aqd_deploy.targets.isa import Isa

# Two vectors of 16 and rest channels; pixels are as many operands of each channel.
CHANNELS, OPERANDS = 43, 24
INT32 = np.iinfo(np.int32)
EVERYTHING = Interval.uniform(CHANNELS, int(INT32.min), int(INT32.max))
LIMIT = 1 << 62
ISAS = [
    pytest.param(isa, marks=pytest.mark.skipif(not host_runs(isa), reason="not this CPU"))
    for isa in (Isa.VNNI, Isa.AVX2, Isa.PORTABLE)
]
LEVELS = [(0, 3, "uint8"), (0, 15, "uint8"), (-8, 7, "int8"), (0, 255, "uint8"), (-128, 127, "int8")]


@cache
def compiled(isa: Isa, epilogue: Epilogue):
    function = pointwise.epilogue_func(1, OPERANDS, CHANNELS, epilogue, isa, 1)
    return compile_functions({"f": function}, MCPU[isa])["f"]


def run(isa: Isa, epilogue: Epilogue, data: np.ndarray, params: list[np.ndarray], dtype) -> np.ndarray:
    return call(compiled(isa, epilogue), [data, *params], [np.zeros(data.shape, dtype)])[0]


def exact(constants: Constants, data: np.ndarray) -> np.ndarray:
    """(v·c + B) >> d in Python's integers, as objects."""
    c, b, d = (np.array(row.tolist(), object) for row in (constants.c, constants.b, constants.d))
    return (data.astype(object) * c + b) >> d


def operands(rng: np.random.Generator, interval: Interval, edges: list[np.ndarray]) -> np.ndarray:
    """int32 [1, OPERANDS, CHANNELS] within the interval: its ends, around `edges`, random."""
    rows = [interval.lo, interval.hi, np.zeros(CHANNELS, np.int64)]
    rows += [edge + step for edge in edges for step in (-1, 0, 1)]
    while len(rows) < OPERANDS:
        rows.append(rng.integers(interval.lo, interval.hi, endpoint=True))
    return np.clip(np.stack(rows[:OPERANDS]), interval.lo, interval.hi).astype(np.int32)[None]


def an_interval(rng: np.random.Generator, bits: int) -> Interval:
    """Operands of about `bits` bits, or all that there are at 32."""
    if bits == 32:
        return EVERYTHING
    ends = rng.integers(-(1 << bits), 1 << bits, (2, CHANNELS))
    return Interval(ends.min(0), ends.max(0))


def thresholds(constants: Constants, level: int) -> np.ndarray:
    """An operand near which (v·c + B) >> d passes the level, for each channel."""
    c = np.where(constants.c == 0, 1, constants.c)
    return np.clip(((level << constants.d) - constants.b) // c, INT32.min, INT32.max)


def requantization(
    rng: np.random.Generator, interval: Interval, limits: tuple[int, int], factor_bits: int
) -> Constants:
    """Constants whose levels spread over a sixteenth of the interval up to four times the interval."""
    lo, hi = limits
    spread = np.exp2(rng.uniform(-4, 2, CHANNELS)) * (interval.hi - interval.lo + 1)
    slope = (hi - lo + 1) / spread
    d = np.clip(np.floor(factor_bits - 1 - np.log2(slope)), 0, 53).astype(np.int64)
    c = np.clip(np.floor(slope * np.exp2(d)), 1, INT32.max).astype(np.int64)
    c *= rng.choice([-1, 1], CHANNELS)
    c[rng.random(CHANNELS) < 0.1] = 0
    centre = rng.integers(interval.lo, interval.hi, endpoint=True)
    noise = rng.integers(0, np.int64(1) << d, dtype=np.int64, endpoint=True)
    return Constants(c, ((lo + hi) // 2 << d) - c * centre + noise, d)


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    bits=st.integers(1, 32),
    levels=st.sampled_from(LEVELS),
    factor_bits=st.integers(1, 28),
    relu=st.booleans(),
)
def test_requantize(isa, seed, bits, levels, factor_bits, relu):
    rng = np.random.default_rng(seed)
    lo, hi, dtype = levels
    interval = an_interval(rng, bits)
    constants = requantization(rng, interval, (lo, hi), factor_bits)
    scaled = scale_requantize(constants, interval, (lo, hi), relu=relu)
    edges = [thresholds(constants, level) for level in (lo, lo + 1, (lo + hi) // 2, hi, hi + 1)]
    data = operands(rng, interval, edges)
    expected = exact(constants, np.maximum(data, 0) if relu else data)
    if relu and scaled.scaling.form == "general":
        data = np.maximum(data, 0)
    expected = np.clip(expected, lo, hi).astype(dtype)
    epilogue = Epilogue((), (StoreRequantize(lo, hi, dtype, scaled.scaling),))
    np.testing.assert_array_equal(run(isa, epilogue, data, scaled.arrays, dtype), expected)


def extremes(rng: np.random.Generator, form: str) -> tuple[Constants, Interval]:
    """Constants and operands of a stream that only `form` is the cheapest for; results are int32."""
    ones = np.ones(CHANNELS, np.int64)
    signs = rng.choice([-1, 1], CHANNELS)
    if form == "shift":
        exponents = rng.integers(0, 31, CHANNELS)
        reach = np.int64(1) << (30 - exponents)
        b = rng.integers(-(2**30), 2**30, CHANNELS)
        return Constants(1 << exponents, b, 0 * ones), Interval(-reach, reach - 1)
    if form == "narrow":
        c = signs * rng.integers(1, 2**16, CHANNELS)
        reach = rng.integers(0, 2**14, CHANNELS)
        b = rng.integers(-(2**30), 2**30, CHANNELS)
        return Constants(c, b, rng.integers(0, 32, CHANNELS)), Interval(-reach, reach)
    shifts = {"wide": (0, 33), "high": (32, 63), "general": (0, 63)}[form]
    d = rng.integers(*shifts, CHANNELS)
    d[:2] = shifts[0], shifts[1] - 1
    c = np.where(rng.random(CHANNELS) < 0.2, INT32.max, rng.integers(2**29, INT32.max, CHANNELS)) * signs
    # Products up to the limit, or to what an int32 result allows.
    largest = np.minimum(np.int64(1) << np.minimum(d + 31, 62), LIMIT) - 1
    centre = rng.integers(-(2**30), 2**30, CHANNELS)
    half = np.minimum(largest // np.abs(c), INT32.max - 2**30)
    interval = Interval(centre - half, centre + half)
    rest = largest - half * np.abs(c)
    b = rng.choice([-1, 1], CHANNELS) * rest - c * centre
    inside = np.abs(b) < LIMIT
    return Constants(
        np.where(inside, c, 1), np.where(inside, b, 0), np.where(inside, d, shifts[0])
    ), Interval(np.where(inside, interval.lo, -1), np.where(inside, interval.hi, 1))


FORMS = ["shift", "narrow", "wide", "high", "general"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_stream(isa, form, seed):
    rng = np.random.default_rng(seed)
    constants, interval = extremes(rng, form)
    scaled = scale_stream(constants, interval)
    assert scaled.scaling.form == form
    data = operands(rng, interval, [])
    expected = exact(constants, data)
    assert all(INT32.min <= v <= INT32.max for v in expected.flat)
    epilogue = Epilogue((MultiplyShift(scaled.scaling),), (StoreStream(),))
    got = run(isa, epilogue, data, scaled.arrays, np.int32)
    np.testing.assert_array_equal(got, expected.astype(np.int32))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("forms", [("wide", "high"), ("shift", "narrow"), ("general", "wide")])
def test_skip_add_of_two_forms(isa, forms):
    """Each side finds its own parameters; the halves of the operands keep the sum within int32."""
    rng = np.random.default_rng(5)
    sides = []
    for form in forms:
        constants, interval = extremes(rng, form)
        constants = Constants(constants.c, constants.b, np.minimum(constants.d + 2, 62))
        scaled = scale_stream(constants, interval)
        data = operands(rng, interval, [])
        sides.append((scaled, data, exact(constants, data)))
    (mine, data, left), (theirs, other, right) = sides
    total = left + right
    safe = np.array([INT32.min <= v <= INT32.max for v in total.flat]).reshape(total.shape)
    data, other = np.where(safe, data, 0).astype(np.int32), np.where(safe, other, 0).astype(np.int32)
    epilogue = Epilogue((SkipAdd(1, False, False, mine.scaling, theirs.scaling),), (StoreStream(),))
    got = run(isa, epilogue, data, [other, *mine.arrays, *theirs.arrays], np.int32)
    np.testing.assert_array_equal(got[safe], total[safe].astype(np.int32))


def test_a_relu_becomes_the_lower_clamp():
    """Levels of negative operands are those of 0, though their own would be lower."""
    constants = Constants.of([3] * CHANNELS, [10 << 6] * CHANNELS, [6] * CHANNELS)
    scaled = scale_requantize(constants, Interval.uniform(CHANNELS, -5000, 5000), (0, 15), relu=True)
    assert scaled.scaling.form == "narrow"
    words = scaled.arrays[0]
    assert (words[3] == 0).all()
    assert (words[4] == ((16 << 6) - 1 - (10 << 6)) // 3).all()


def test_clamps_that_nothing_reaches_are_left_out():
    constants = Constants.of([3] * CHANNELS, [10 << 6] * CHANNELS, [6] * CHANNELS)
    scaled = scale_requantize(constants, Interval.uniform(CHANNELS, -5, 5), (0, 15))
    assert not scaled.scaling.lower and not scaled.scaling.upper and not scaled.scaling.clip


def test_a_jump_over_levels_keeps_the_clip():
    """3·v + 1 is 1 at v = 0 and −2 before: level 0 is the clip's alone."""
    constants = Constants.of([3] * CHANNELS, [1] * CHANNELS, [0] * CHANNELS)
    scaled = scale_requantize(constants, Interval.uniform(CHANNELS, -5000, 5000), (0, 255))
    assert scaled.scaling.clip
    assert not scale_requantize(constants, Interval.uniform(CHANNELS, 0, 84), (0, 255)).scaling.clip


@pytest.mark.parametrize(
    ("at_zero", "relu", "expected"), [(0, True, True), (9, True, False), (9, False, True)]
)
def test_clamps_give_way_to_a_clip_of_every_result(at_zero, relu, expected):
    """But for a ReLU's, whose zero has a code that is not the lowest."""
    constants = Constants.of([1 << 28] * CHANNELS, [at_zero << 38] * CHANNELS, [38] * CHANNELS)
    interval = Interval.uniform(CHANNELS, -(10**6), 10**6)
    scaling = scale_requantize(constants, interval, (0, 255), relu=relu).scaling
    assert (scaling.form, scaling.lower, scaling.upper) == ("high", True, True)
    assert scaling.saturates is expected


def test_clamps_stay_where_a_result_would_not_fit():
    constants = Constants.of([(1 << 30) + 1] * CHANNELS, [0] * CHANNELS, [20] * CHANNELS)
    interval = Interval.uniform(CHANNELS, -(2**30), 2**30)
    assert not scale_requantize(constants, interval, (0, 255)).scaling.saturates


def test_an_unknown_form_is_an_error():
    scaling, rows = Scaling("twice"), fixed_point.Rows(8)
    lanes = fixed_point.Lanes(const(0), const(0), 8)
    for asked in (
        lambda: fixed_point.declare(Emitter(), scaling, rows),
        lambda: fixed_point.parameter_count(scaling),
        lambda: fixed_point.multiply_shift(Emitter(), const(1), scaling, [], rows, lanes),
    ):
        with pytest.raises(UnsupportedModelError, match=r"twice; valid: general, shift, narrow, wide, high"):
            asked()


def test_odd_channel_counts_are_padded_by_level():
    """Two levels of three channels: pairs (0, 1), (2, –) of each level."""
    constants = Constants.of([(1 << 30) + 1] * 6, list(range(6)), [5] * 6)
    scaled = scale_stream(constants, Interval.uniform(6, -(2**30), 2**30), levels=2)
    assert scaled.scaling.form == "wide"
    pairs = scaled.arrays[0]
    assert pairs.shape == (3, 2, 4)
    assert pairs[1].tolist() == [[0, 2, 3, 5], [1, 0, 4, 0]]
    assert pairs[2, 0, :2].tolist() == [5, 5] and pairs[2, 1, 0] == 27
