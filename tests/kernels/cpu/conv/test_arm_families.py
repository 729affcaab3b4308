"""Every kernel family returns the integers of the numpy reference on ARM, under qemu: on a CPU with dot
products, on one that would trap at them, and on Armv7.
"""

from dataclasses import replace

import numpy as np
import pytest
from arm_runner import MACHINES, Batch, need_machine
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from kernel_reference import convolve
from test_families_sweep import KINDS, built, cases, some_choices
from winograd_cases import CASES as WINOGRAD_CASES
from winograd_cases import operands as winograd_operands

from aqd_deploy.kernels.contract.choice import Choice
from aqd_deploy.kernels.contract.spec import ConvSpec, Epilogue
from aqd_deploy.kernels.cpu.conv.families import conv2d, conv_choices
from aqd_deploy.kernels.cpu.isa.select import instruction_set
from aqd_deploy.kernels.cpu.winograd.plan import WinogradPlan
from aqd_deploy.kernels.winograd.forms import exact_forms, true_weights
from aqd_deploy.targets.isa import Isa

pytestmark = [pytest.mark.needs_qemu, pytest.mark.needs_cross]
ISAS = list(MACHINES)
CASES = 3
SAME = {"kernel": (3, 3), "pads": (1, 1, 1, 1)}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", KINDS)
def test_no_integer_differs(isa, kind, tmp_path):
    need_machine(isa)
    found = []

    @settings(max_examples=CASES, phases=[Phase.generate])
    @given(cases(kind))
    def collect(case):
        found.append(case)

    collect()
    batch = Batch(isa)
    for case in found:
        for kernel, data, weights, expected in built(case, isa):
            label = f"{kernel.choice}, {case}"
            batch.add(label, kernel.prim_func, [data, kernel.layout.pack(weights)], [expected])
    batch.check(tmp_path)


def winograd_choices(spec: ConvSpec, isa: Isa, threads: int) -> dict[str, list[Choice]]:
    """The choices of each Winograd form that the instruction set has."""
    found: dict[str, list[Choice]] = {}
    for choice in conv_choices(spec, isa, threads):
        if choice.family == "winograd":
            form = WinogradPlan.from_parameters(dict(choice.parameters)).form
            found.setdefault(form, []).append(choice)
    return found


@pytest.mark.parametrize("isa", ISAS)
def test_every_form_of_winograd(isa, tmp_path):
    need_machine(isa)
    rng, batch, met = np.random.default_rng(7), Batch(isa), set()
    for number, (spec, interval, bits) in enumerate(WINOGRAD_CASES):
        fill = ("any", "highest", "lowest")[number % 3]
        data, weights = winograd_operands(spec, interval, bits, fill, rng)
        exact = exact_forms(true_weights(weights, spec.odd), interval)
        known = replace(spec, winograd=exact, input_range=interval)
        expected = convolve(known, data, weights).astype(np.int32)
        offered = winograd_choices(known, isa, 1 + number % 3)
        # One kernel a form is enough to compile.
        for form in [form for form in offered if form not in met][:2]:
            choice = offered[form][int(rng.integers(len(offered[form])))]
            kernel = conv2d(known, Epilogue(), isa, 1 + number % 3, choice)
            met.add(form)
            label = f"{choice}, {known}, {fill}"
            batch.add(label, kernel.prim_func, [data, kernel.layout.pack(weights)], [expected])
    # Where there is `sdot`, products of 16 bits are not worth it.
    assert ("f4x4_wide" in met) == (instruction_set(isa).winograd_words is not None)
    assert met >= {"f2x2", "f2x4", "c4x4", "f2x2_halved"}
    batch.check(tmp_path)


# Ranges of samples and weights, the last of which can be added in 8 bits.
LIMITS = [
    ((0, 255), (-128, 127)),
    ((-128, 127), (-128, 127)),
    ((0, 15), (-128, 127)),
    ((0, 30), (-128, 127)),
    ((0, 255), (-127, 127)),
    ((0, 3), (-4, 3)),
]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("end", [0, 1])
def test_one_sign_only_over_the_longest_reduction(isa, end, tmp_path):
    """Sums that saturate or wrap anywhere would show; so would one step too many in 8 or 16 bits."""
    need_machine(isa)
    batch, met = Batch(isa), set()
    for inputs, weights in LIMITS:
        ranges = {"input_range": inputs, "weight_range": weights, "input_signed": inputs[0] < 0}
        spec = ConvSpec(2, 3, 400, 12, **SAME, **ranges)
        filter_ = np.full((12, 400, 3, 3), weights[end], np.int8)
        for sample in inputs:
            data = np.full((2, 3, 400), sample, np.int8 if spec.input_signed else np.uint8)
            expected = convolve(spec, data, filter_).astype(np.int32)
            for family in ("blocked", "bytes"):
                choice = next((c for c in conv_choices(spec, isa, 1) if c.family == family), None)
                if choice is not None:
                    kernel = conv2d(spec, Epilogue(), isa, 1, choice)
                    batch.add(choice, kernel.prim_func, [data, kernel.layout.pack(filter_)], [expected])
                    met.add(family)
    assert ("bytes" in met) == (instruction_set(isa).bytes is not None)
    batch.check(tmp_path)


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=1, phases=[Phase.generate])
@given(st.integers(0, 2**31))
def test_few_channels_and_shifted_samples(isa, tmp_path_factory, seed):
    need_machine(isa)
    rng, batch = np.random.default_rng(seed), Batch(isa)
    for channels, out, high, odd in (
        (32, 1, 15, True),
        (48, 4, 127, False),
        (16, 5, 255, True),
        (64, 8, 3, True),
    ):
        spec = ConvSpec(5, 7, channels, out, **SAME, odd=odd, input_range=(0, high), weight_range=(-128, 127))
        data = rng.integers(0, high + 1, (5, 7, channels)).astype(np.uint8)
        weights = rng.integers(-128, 128, (out, channels, 3, 3)).astype(np.int8)
        expected = convolve(spec, data, weights).astype(np.int32)
        for choice in some_choices(spec, isa, 2, seed):
            kernel = conv2d(spec, Epilogue(), isa, 2, choice)
            batch.add(f"{choice} {spec}", kernel.prim_func, [data, kernel.layout.pack(weights)], [expected])
    batch.check(tmp_path_factory.mktemp("few"))
