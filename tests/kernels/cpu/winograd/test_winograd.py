"""Exact Winograd: the transforms are identities, the proofs are tight, the kernel returns the reference."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_reference import MCPU, call, compile_functions, convolve, epilogue_params, finish, host_runs
from winograd_cases import CASES, SAME, operands

from aqd_deploy.compiler.weights import encode
from aqd_deploy.kernels.contract.spec import ConvSpec, Epilogue, Relu, SkipAdd, StoreRequantize, StoreStream
from aqd_deploy.kernels.cpu.conv.families import conv2d, conv_choices
from aqd_deploy.kernels.cpu.unpack.weights import unpack_func
from aqd_deploy.kernels.winograd.forms import FORMS, Form, exact_forms, true_weights
from aqd_deploy.kernels.winograd.layout import WinogradLayout
from aqd_deploy.kernels.winograd.transforms import LINES
from aqd_deploy.targets.isa import Isa

needs_vnni = pytest.mark.skipif(not host_runs(Isa.VNNI), reason="this CPU has no AVX-512 VNNI")


@pytest.mark.parametrize(
    ("name", "samples", "weights"), [("f2", 2, 3), ("c4", 4, 4), ("f3", 6, 7), ("f4", 10, 7)]
)
def test_lines_let_operands_grow_as_their_table_says(name, samples, weights):
    line = LINES[name]
    for function, size, growth in (
        (line.input_transform, line.size, samples),
        (line.filter_transform, 3, weights),
    ):
        rows = function(list(np.eye(size, dtype=np.int64)))
        assert len(rows) == line.values
        assert max(np.abs(row).sum() for row in rows) == growth


def test_complex_values_take_few_products():
    assert {name: form.positions for name, form in FORMS.items() if not form.halved} == {
        "f4x4_wide": 36,
        "f3x4": 30,
        "f2x4": 24,
        "c4x4": 46,
        "f2x2": 16,
    }


@pytest.mark.parametrize(("down", "across"), list(product(LINES, LINES)))
@given(st.integers(0, 2**32), st.booleans())
def test_transforms_compute_the_convolution_times_the_divisor(down, across, seed, halved):
    form = Form("any", down, across, halved=halved)
    rng = np.random.default_rng(seed)
    tile = rng.integers(-300, 300, (form.rows + 2, form.columns + 2))
    taps = (2 * rng.integers(-60, 60, (3, 3)) + 1).astype(np.int8)
    samples = np.array(list(form.input_transform([list(row) for row in tile])))
    np.testing.assert_array_equal(np.einsum("pij,ij->p", form.input_matrix, tile), samples)
    products = samples * form.transformed_filters(taps)
    columns = form.output_columns(list(products).__getitem__)
    gathered = np.stack([form.output_row([column[y] for column in columns]) for y in range(form.rows)])
    np.testing.assert_array_equal(form.output_matrix @ products, gathered)
    base = form.base(taps)
    windows = [
        [(tile[y : y + 3, x : x + 3] * base).sum() for x in range(form.columns)] for y in range(form.rows)
    ]
    np.testing.assert_array_equal(gathered, form.divisor * np.array(windows))
    if form.halved:
        np.testing.assert_array_equal(2 * base + 1, taps)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("interval", [(0, 3), (0, 15), (-8, 7), (-5, 0)])
def test_the_range_of_transformed_activations_is_reached_and_never_left(form, interval):
    lowest, highest = form.sample_ranges(*interval)
    flat = form.input_matrix.reshape(form.positions, -1)
    low, high = interval
    np.testing.assert_array_equal((flat * np.where(flat > 0, high, low)).sum(1), highest)
    np.testing.assert_array_equal((flat * np.where(flat > 0, low, high)).sum(1), lowest)


def test_shifts_make_bytes_unsigned_with_128_wherever_that_is_enough():
    form = FORMS["c4x4"]
    low, high = form.sample_ranges(0, 15)
    shifts = form.shifts(0, 15)
    assert (low + shifts).min() >= 0 and (high + shifts).max() <= 255
    # Only the sums of all sixteen inner samples, which reach 16·15, need another.
    assert np.flatnonzero(shifts != 128).tolist() == [8]
    assert high.max() == 240
    assert not FORMS["f4x4_wide"].shifts(0, 255).any()


def weight(value: int, **taps: int) -> np.ndarray:
    """int8 [1, 4, 3, 3] of one value; `taps` t<row><column> replaces that of channel 2."""
    result = np.full((1, 4, 3, 3), value, np.int8)
    for name, tap in taps.items():
        result[0, 2, int(name[1]), int(name[2])] = tap
    return result


def test_a_form_is_exact_up_to_the_last_value_that_fits():
    assert "f2x2" in exact_forms(weight(14, t00=15), (0, 15))  # 8·14 + 15 = 127
    assert "f2x2" not in exact_forms(weight(14, t00=16), (0, 15))
    assert "f2x2" in exact_forms(weight(-14, t00=-16), (0, 15))  # −128
    assert "f2x2" not in exact_forms(weight(-14, t00=-17), (0, 15))
    assert "f2x2" in exact_forms(weight(1), (0, 63))  # two each way: 128 values; or four up: 252
    assert "f2x2" not in exact_forms(weight(1), (0, 64))
    assert "f2x4" in exact_forms(weight(1), (0, 12))  # ten each way: 240
    assert "f2x4" not in exact_forms(weight(1), (0, 13))
    assert "f3x4" in exact_forms(weight(1), (0, 4))  # thirty each way: 240
    assert "f3x4" not in exact_forms(weight(1), (0, 5))
    assert "c4x4" in exact_forms(weight(1), (0, 15))  # sixteen up: 240
    assert "c4x4" not in exact_forms(weight(1), (0, 16))


def wide(high: int, low: int = 0) -> np.ndarray:
    """int16 [1, 8, 3, 3] with weights of the sum `high` and some of the sum `low` in one output channel."""
    result = np.zeros((1, 8, 3, 3), np.int16)
    result[0, 0].flat[:8] = high // 8
    result[0, 0].flat[8] = high - 8 * (high // 8)
    result[0, 1, 0, 0] = low
    return result


def test_sums_of_wide_forms_may_wrap_as_long_as_the_result_fits():
    # 255·w·64 of F(4)'s divisor 24² = 64·9.
    limit = (2**31 - 1) // (64 * 255)
    assert exact_forms(wide(limit), (0, 255)) == ("f4x4_wide",)
    assert exact_forms(wide(limit + 1), (0, 255)) == ()
    # Activations that are never negative cannot take weights of both signs to one end.
    assert exact_forms(wide(limit, -1000), (0, 255)) == ("f4x4_wide",)
    assert exact_forms(wide(limit, -1000), (-1, 255)) == ()


def test_wide_samples_fit_16_bits():
    assert "f4x4_wide" in exact_forms(weight(1), (0, 481))  # 8·8 + 2·2 times 481: 32708
    assert "f4x4_wide" not in exact_forms(weight(1), (0, 482))


def test_halved_forms_need_odd_weights_only():
    assert exact_forms(weight(15), (0, 15)) == ("f4x4_wide", "c4x4_halved", "f2x2_halved")
    assert exact_forms(weight(15, t11=14), (0, 15)) == ("f4x4_wide",)
    assert "f2x4_halved" in exact_forms(weight(-7), (0, 7))


def test_nothing_is_exact_without_a_range_or_for_another_kernel():
    assert exact_forms(weight(1), None) == ()
    assert exact_forms(np.ones((4, 4, 1, 1), np.int8), (0, 3)) == ()


def test_padding_counts_as_an_activation():
    assert exact_forms(weight(1), (31, 31)) == exact_forms(weight(1), (0, 31))
    assert "f2x2" not in exact_forms(weight(1), (64, 64))


@needs_vnni
@pytest.mark.parametrize(
    ("form", "bits", "shape", "blocks"),
    [
        ("f2x2", 3, (40, 18), 2),
        ("f2x4", 2, (33, 16), 3),
        ("f2x2_halved", 4, (16, 20), 1),
        ("c4x4", 4, (20, 33), 1),
        ("f3x4", 2, (16, 16), 2),
        ("f4x4_wide", 4, (40, 18), 2),
    ],
)
def test_the_program_expands_weights_as_numpy_packs_them(form, bits, shape, blocks):
    largest = 2**bits - 1
    weights = (np.random.default_rng(bits).integers(0, largest + 1, (*shape, 3, 3)) * 2 - largest).astype(
        np.int8
    )
    stored = encode(weights)
    wide = FORMS[form].wide
    shifts = tuple(int(shift) for shift in FORMS[form].shifts(0, 2**bits - 1))
    layout = WinogradLayout(form, *shape, 16, 2 if wide else 4, blocks, shifts, odd=wide)
    function = unpack_func(stored.shape, stored.bits, stored.offset, stored.step, layout)
    module = compile_functions({"unpack": function}, MCPU[Isa.VNNI])
    (packed,) = call(module["unpack"], [stored.stream], [np.full(layout.shape, 55, np.int8)])
    np.testing.assert_array_equal(packed, layout.pack(weights))


@needs_vnni
@pytest.mark.parametrize(("spec", "interval", "bits"), CASES)
def test_kernels_return_the_reference(spec, interval, bits):
    rng = np.random.default_rng(7)
    signed = spec.input_signed
    functions, calls = {}, []
    for fill, threads in (("any", 1), ("highest", 3), ("lowest", 2)):
        data, weights = operands(spec, interval, bits, fill, rng)
        exact = exact_forms(true_weights(weights, spec.odd), interval)
        assert exact
        for form in exact:
            known = replace(spec, winograd=(form,), input_range=interval)
            choices = [c for c in conv_choices(known, Isa.VNNI, threads) if c.family == "winograd"]
            kernel = conv2d(known, Epilogue(), Isa.VNNI, threads, choices[int(rng.integers(len(choices)))])
            name = f"f{len(calls)}"
            functions[name] = kernel.prim_func
            calls.append((name, data, kernel.layout.pack(weights), convolve(known, data, weights)))
    assert signed == (calls[0][1].dtype == np.int8)
    module = compile_functions(functions, MCPU[Isa.VNNI])
    for name, data, packed, expected in calls:
        out = np.full(expected.shape, -77, np.int32)
        np.testing.assert_array_equal(call(module[name], [data, packed], [out])[0], expected)


@needs_vnni
def test_epilogues_see_every_pixel_and_level_once():
    rng = np.random.default_rng(3)
    plain = ConvSpec(7, 10, 32, 40, **SAME, winograd=("f2x2_halved",), input_range=(0, 15))
    stacked = ConvSpec(
        35, 1, 32, 40, **SAME, winograd=("f2x2_halved",), input_range=(0, 15), levels=((5, 5), (2, 5))
    )
    plain_end = Epilogue((SkipAdd(), Relu()), (StoreStream(), StoreRequantize(0, 15)))
    stacked_end = Epilogue((), (StoreRequantize(0, 15), StoreRequantize(0, 3)))
    module = compile_functions(
        {
            "plain": conv2d(plain, plain_end, Isa.VNNI, 2).prim_func,
            "stacked": conv2d(stacked, stacked_end, Isa.VNNI, 2).prim_func,
        },
        MCPU[Isa.VNNI],
    )
    for name, spec, end in (("plain", plain, plain_end), ("stacked", stacked, stacked_end)):
        data, weights = operands(spec, (0, 15), 4, "any", rng)
        packed = conv2d(spec, end, Isa.VNNI, 2).layout.pack(weights)
        value = convolve(spec, data, weights)
        shape = value.shape
        if spec.levels:
            rows = [epilogue_params(rng, end, shape, 10**5) for _ in spec.levels]
            params = [np.concatenate(level) for level in zip(*rows, strict=True)]
            starts = [m.out_start for m in spec.maps] + [shape[0]]
            pieces = [
                finish(end, value[a:b], level)
                for a, b, level in zip(starts[:-1], starts[1:], rows, strict=True)
            ]
            expected = [np.concatenate(piece) for piece in zip(*pieces, strict=True)]
        else:
            params = epilogue_params(rng, end, shape, 10**5)
            expected = finish(end, value, params)
        outputs = [np.full(e.shape, 99, e.dtype) for e in expected]
        for got, want in zip(call(module[name], [data, packed, *params], outputs), expected, strict=True):
            np.testing.assert_array_equal(got, want)


def test_a_kernel_says_which_form_it_takes_and_why():
    spec = ConvSpec(40, 40, 64, 64, **SAME, winograd=("f4x4_wide", "f2x2"), input_range=(0, 15))
    for form, words in (
        ("f4x4_wide", "f4x4_wide, exact in 16 bits for these ranges: 4 times fewer products"),
        ("f2x2", "f2x2, exact in 8 bits for these ranges: 2.25 times fewer products"),
    ):
        alone = replace(spec, winograd=(form,))
        choice = next(c for c in conv_choices(alone, Isa.VNNI, 1) if c.family == "winograd")
        assert conv2d(spec, Epilogue(), Isa.VNNI, 1, choice).why == words


def test_executed_products_are_those_of_whole_tiles():
    spec = ConvSpec(10, 9, 16, 32, (3, 3), pads=(1, 1, 1, 1), input_range=(0, 15), winograd=("c4x4_halved",))
    choice = next(c for c in conv_choices(spec, Isa.VNNI, 1) if c.family == "winograd")
    kernel = conv2d(spec, Epilogue(), Isa.VNNI, 1, choice)
    assert kernel.executed_macs == 3 * 3 * 46 * 16 * 32
