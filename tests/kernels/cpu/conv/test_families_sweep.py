"""Every kernel family returns the integers of the numpy reference, on every instruction set, in any choice.

A case is a convolution with proven ranges, operands that may all sit at the ends of these ranges, and a
number of threads; each family that applies is built in its default choice, and one of them in another. The
functions of several cases are compiled as one module, which is what the time goes into.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from kernel_reference import MCPU, call, compile_functions, convolve, host_runs

from aqd_deploy.kernels.contract.choice import Choice
from aqd_deploy.kernels.contract.spec import ConvSpec, Epilogue
from aqd_deploy.kernels.cpu.conv.families import Kernel, conv2d, conv_choices
from aqd_deploy.kernels.winograd.forms import exact_forms, true_weights
from aqd_deploy.targets.isa import Isa

ISAS = [isa for isa in Isa if host_runs(isa)]
CASES = 3
# (activations, weights): the widths of the networks, their mixtures, signed grids, the largest weights that
# may be multiplied in 8 bits with any activation and the next, and nothing proven.
RANGES = [
    ((0, 15), (-15, 15)),
    ((0, 3), (-3, 3)),
    ((0, 7), (-7, 7)),
    ((0, 255), (-128, 127)),
    ((0, 255), (-15, 15)),
    ((0, 15), (-128, 127)),
    ((0, 127), (-127, 127)),
    ((0, 255), (-64, 64)),
    ((0, 255), (-65, 63)),
    ((0, 1), (-1, 1)),
    ((3, 9), (1, 7)),
    ((-8, 7), (-8, 7)),
    ((-128, 127), (-128, 127)),
    ((-2, 1), (-3, 0)),
    ((-128, 127), (-31, 31)),
    (None, None),
]
FILLS = ("any", "ends", "highest", "lowest", "opposite")


@dataclass(frozen=True)
class Case:
    """`fill`: operands anywhere in their ranges, at random ends, or all at one; `pick` seeds the rest."""

    spec: ConvSpec
    fill: str
    threads: int
    pick: int


def dense(draw) -> dict:
    channels = draw(st.sampled_from([1, 3, 4, 5, 16, 20, 100]))
    return {"in_channels": channels, "out_channels": draw(st.sampled_from([1, 7, 8, 16, 17, 40]))}


def grouped(draw) -> dict:
    group = draw(st.sampled_from([2, 3, 4, 7]))
    return {
        "group": group,
        "in_channels": group * draw(st.sampled_from([1, 2, 3, 4, 5, 8, 12, 16, 20, 100])),
        "out_channels": group * draw(st.sampled_from([1, 2, 3, 4, 6, 8, 12, 16, 24, 32])),
    }


def depthwise(draw) -> dict:
    channels = draw(st.sampled_from([3, 16, 19, 40, 60, 64]))
    return {"group": channels, "in_channels": channels, "out_channels": channels}


def levels(draw) -> dict:
    sizes = st.tuples(st.integers(1, 6), st.integers(1, 6))
    return {"levels": tuple(draw(st.lists(sizes, min_size=1, max_size=3)))}


KINDS = {
    "3x3": (dense, (3, 3), (1, 1), (1, 1, 1, 1)),
    "3x3 in tens": (dense, (3, 3), (1, 1), (1, 1, 1, 1)),
    "strided": (dense, (3, 3), (2, 2), (1, 1, 1, 1)),
    "1x1": (dense, (1, 1), None, (0, 0, 0, 0)),
    "stem": (dense, (7, 7), (2, 2), (3, 3, 3, 3)),
    "any": (dense, None, None, None),
    "grouped": (grouped, (3, 3), None, None),
    "grouped any": (grouped, None, None, None),
    "depthwise": (depthwise, None, None, None),
    "levels": (dense, (3, 3), (1, 1), (1, 1, 1, 1)),
}


@st.composite
def cases(draw, kind: str) -> Case:
    channels, kernel, strides, pads = KINDS[kind]
    kernel = kernel or (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    dilations = (1, 1)
    if kind.endswith("any"):
        dilations = (draw(st.sampled_from([1, 1, 2])), draw(st.sampled_from([1, 1, 2])))
    inputs, weights = draw(st.sampled_from(RANGES))
    signed = inputs is not None and inputs[0] < 0
    spec = ConvSpec(
        height=draw(st.integers(1, 10)) + (kernel[0] - 1) * dilations[0],
        width=draw(st.integers(1, 10)) + (kernel[1] - 1) * dilations[1],
        kernel=kernel,
        strides=strides or (draw(st.integers(1, 3)), draw(st.integers(1, 3))),
        pads=pads or tuple(draw(st.integers(0, 2)) for _ in range(4)),
        dilations=dilations,
        odd=draw(st.sampled_from([False, False, True])),
        input_signed=signed,
        input_range=inputs,
        weight_range=weights,
        **channels(draw),
    )
    if kind == "3x3 in tens":
        spec = replace(spec, in_channels=draw(st.sampled_from([16, 32, 64, 112])))
    if kind == "levels":
        maps = levels(draw)
        spec = replace(spec, height=sum(h * w for h, w in maps["levels"]), width=1, **maps)
    lo, hi = (-128, 127) if signed else (0, 255)
    padding = draw(st.sampled_from(["zero", "value", "per channel"]))
    if padding == "value":
        spec = replace(spec, pad_values=(draw(st.sampled_from([lo, hi, 1])),) * spec.in_channels)
    if padding == "per channel":
        values = np.random.default_rng(spec.in_channels).integers(lo, hi + 1, spec.in_channels)
        spec = replace(spec, pad_values=tuple(int(v) for v in values))
    return Case(spec, draw(st.sampled_from(FILLS)), draw(st.integers(1, 3)), draw(st.integers(0, 2**31)))


def operands(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Data and weights as `Case.fill` says."""
    spec, rng = case.spec, np.random.default_rng(case.pick)
    dtype = np.int8 if spec.input_signed else np.uint8
    shape = (spec.height, spec.width, spec.in_channels)
    kernel = (spec.out_channels, spec.in_channels // spec.group, *spec.kernel)
    x = spec.input_range or (np.iinfo(dtype).min, np.iinfo(dtype).max)
    w = spec.weight_range or (-128, 127)
    match case.fill:
        case "any":
            data, weights = rng.integers(*x, shape, endpoint=True), rng.integers(*w, kernel, endpoint=True)
        case "ends":
            data, weights = rng.choice(x, shape), rng.choice(w, kernel)
        case "highest":
            data, weights = np.full(shape, x[1]), np.full(kernel, w[1])
        case "lowest":
            data, weights = np.full(shape, x[0]), np.full(kernel, w[0])
        case _:
            data, weights = np.full(shape, x[1]), np.full(kernel, w[0])
    return data.astype(dtype), weights.astype(np.int8)


def some_choices(spec: ConvSpec, isa: Isa, threads: int, pick: int) -> list[Choice]:
    """The first choice of each family that applies, and another of one of them."""
    rng = np.random.default_rng(pick)
    families: dict[str, list[Choice]] = {}
    for choice in conv_choices(spec, isa, threads):
        families.setdefault(choice.family, []).append(choice)
    chosen = [found[0] for found in families.values()]
    others = [choice for found in families.values() for choice in found[1:]]
    return chosen + ([others[rng.integers(len(others))]] if others else [])


def built(case: Case, isa: Isa) -> Iterator[tuple[Kernel, np.ndarray, np.ndarray, np.ndarray]]:
    """The kernels of `some_choices`, each with data, weights and what the convolution gives."""
    data, weights = operands(case)
    forms = exact_forms(true_weights(weights, case.spec.odd), case.spec.input_range)
    spec = replace(case.spec, winograd=forms)
    expected = convolve(spec, data, weights).astype(np.int32)
    for choice in some_choices(spec, isa, case.threads, case.pick):
        yield conv2d(spec, Epilogue(), isa, case.threads, choice), data, weights, expected


def check(batch: list[Case], isa: Isa) -> set[str]:
    """Builds all kernels of `batch` in one module and compares, tolerance zero; returns the families met."""
    runs, families = {}, set()
    for case in batch:
        for kernel, data, weights, expected in built(case, isa):
            runs[f"f{len(runs)}"] = kernel, data, weights, expected, case
            families.add(kernel.choice.family)
    module = compile_functions({name: run[0].prim_func for name, run in runs.items()}, MCPU[isa])
    for name, (kernel, data, weights, expected, case) in runs.items():
        (got,) = call(module[name], [data, kernel.layout.pack(weights)], [np.full_like(expected, 99)])
        differing = np.count_nonzero(got != expected)
        assert differing == 0, f"{differing} of {expected.size} differ: {kernel.choice} on {isa}, {case}"
    return families


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", KINDS)
def test_no_integer_differs(isa, kind):
    # Shrinking would compile for minutes, and a failure prints its case.
    @settings(max_examples=2, phases=[Phase.generate])
    @given(st.lists(cases(kind), min_size=CASES, max_size=CASES))
    def sweep(batch: list[Case]) -> None:
        check(batch, isa)

    sweep()
