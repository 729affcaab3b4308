"""Kernels that write each value once return the same integers when they write over what they add."""

from dataclasses import replace

import numpy as np
import pytest
import tvm
from kernel_reference import MCPU, compile_functions, convolve, host_runs

from aqd_deploy.kernels.contract.choice import Choice
from aqd_deploy.kernels.contract.spec import ConvSpec, Epilogue, SkipAdd, StoreInPlace
from aqd_deploy.kernels.cpu.conv.families import FAMILIES, conv2d, conv_choices
from aqd_deploy.kernels.winograd.forms import exact_forms
from aqd_deploy.targets.isa import Isa

ISAS = [isa for isa in Isa if host_runs(isa)]
SHAPES = {
    "1x1": ConvSpec(8, 12, 16, 64, (1, 1)),
    "3x3": ConvSpec(8, 12, 32, 40, (3, 3), pads=(1, 1, 1, 1)),
    "uneven": ConvSpec(7, 9, 32, 48, (3, 3), pads=(1, 1, 1, 1)),
}
SKIP = SkipAdd(self_identity=True, other_identity=True)
MOST = 3


def prepared(name: str):
    rng = np.random.default_rng(5)
    spec = SHAPES[name]
    data = rng.integers(0, 8, (spec.height, spec.width, spec.in_channels)).astype(np.uint8)
    weights = rng.integers(-3, 4, (spec.out_channels, spec.in_channels, *spec.kernel)).astype(np.int8)
    forms = exact_forms(weights.astype(np.int16), (0, 7))
    spec = replace(spec, input_range=(0, 7), weight_range=(-3, 3), winograd=forms)
    shape = (spec.out_height, spec.out_width, spec.out_channels)
    stream = rng.integers(-(2**26), 2**26, shape).astype(np.int32)
    return spec, data, weights, stream


def choices_once(spec: ConvSpec, isa: Isa, threads: int) -> list[Choice]:
    """Some choices of every family that write once, spread over the cost model's order."""
    families: dict[str, list[Choice]] = {}
    for choice in conv_choices(spec, isa, threads):
        if FAMILIES[choice.family].writes_once(spec, isa, choice):
            families.setdefault(choice.family, []).append(choice)
    return [choice for found in families.values() for choice in found[:: -(-len(found) // MOST)]]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", SHAPES)
def test_what_is_added_is_read_before_it_is_overwritten(isa, name):
    spec, data, weights, stream = prepared(name)
    expected = convolve(spec, data, weights) + stream
    kernels = [
        conv2d(spec, Epilogue((SKIP,), (StoreInPlace(),)), isa, threads, choice)
        for threads in (1, 2)
        for choice in choices_once(spec, isa, threads)
    ]
    module = compile_functions({f"f{i}": k.prim_func for i, k in enumerate(kernels)}, MCPU[isa])
    channels = spec.out_channels
    identity = [np.ones(channels, np.int32), np.zeros(channels, np.int64), np.zeros(channels, np.int32)] * 2
    for i, kernel in enumerate(kernels):
        inputs = [data, kernel.layout.pack(weights), stream.copy(), *identity]
        got = call_in_place(module[f"f{i}"], inputs)
        assert np.array_equal(got, expected), kernel.choice
    met = {kernel.choice.family for kernel in kernels}
    assert "blocked" in met
    winograd = any(choice.family == "winograd" for choice in conv_choices(spec, isa, 1))
    assert ("winograd" in met) == (name == "3x3" and winograd)


def call_in_place(function, inputs: list[np.ndarray]) -> np.ndarray:
    """What the kernel leaves in its third argument."""
    tensors = [tvm.runtime.tensor(np.ascontiguousarray(a)) for a in inputs]
    function(*tensors)
    return tensors[2].numpy()


def test_overlapping_tiles_are_told():
    """7x9 leaves no whole number of Winograd's tiles; register tiles of 2x2 overlap, those of 1x3 do not."""
    spec = prepared("uneven")[0]
    told, forms = {}, []
    for choice in conv_choices(spec, ISAS[0], 1):
        once = FAMILIES[choice.family].writes_once(spec, ISAS[0], choice)
        if choice.family == "winograd":
            forms.append(once)
        elif choice.family == "blocked" and choice["blocks"] == 1:
            told[choice["tile_rows"], choice["tile_columns"], choice["rows"]] = once
    assert told[1, 3, 7]
    assert not told[2, 2, 7]
    assert not told[1, 3, 4]
    assert not any(forms)


def test_an_epilogue_in_place_needs_exactly_one_operand():
    with pytest.raises(ValueError, match="unpack"):
        conv2d(prepared("1x1")[0], Epilogue((), (StoreInPlace(),)), ISAS[0], 1)
