"""What surrounds the products, on ARM under qemu: epilogues, every multiply-shift, network outputs, pooling,
movement, and the expansion of stored weights.
"""

from dataclasses import replace

import numpy as np
import pytest
from arm_runner import MACHINES, Batch, need_machine
from kernel_reference import convolve, epilogue_params, finish
from test_conv_kernels import NETWORK, PAPER, operands
from test_epilogue_pool import CASES as POOLED
from test_epilogue_pool import max_pooled
from test_epilogue_scaling import (
    CHANNELS,
    FORMS,
    LEVELS,
    OPERANDS,
    an_interval,
    exact,
    extremes,
    requantization,
)
from test_epilogue_scaling import operands as scaling_operands

from aqd_deploy.kernels.contract.scaling import scale_requantize, scale_stream
from aqd_deploy.kernels.contract.spec import (
    AddBias,
    ConvSpec,
    Epilogue,
    MultiplyShift,
    Relu,
    SkipAdd,
    StoreBorder,
    StoreRequantize,
    StoreStream,
)
from aqd_deploy.kernels.cpu.conv.families import conv2d, conv_choices
from aqd_deploy.kernels.cpu.isa.peak import peak_func, peak_macs, peak_outputs
from aqd_deploy.kernels.cpu.isa.select import instruction_set
from aqd_deploy.kernels.cpu.movement import pointwise
from aqd_deploy.kernels.cpu.unpack.constants import expand_func, expand_rice_func
from aqd_deploy.kernels.cpu.unpack.weights import unpack_func
from aqd_deploy.kernels.storage.bit_planes import encode as encode_frames
from aqd_deploy.kernels.storage.layout import pack_codes
from aqd_deploy.kernels.storage.rice_codes import encode as encode_rice
from aqd_deploy.kernels.winograd.forms import exact_forms

pytestmark = [pytest.mark.needs_qemu, pytest.mark.needs_cross]
ISAS = list(MACHINES)
SAME = {"kernel": (3, 3), "pads": (1, 1, 1, 1)}


def add_layer(
    batch: Batch, spec: ConvSpec, epilogue: Epilogue, data: np.ndarray, weights: np.ndarray, family: str = ""
) -> None:
    """A convolution with its epilogue: of a family, or the default."""
    rng = np.random.default_rng(1)
    shape = (spec.out_height, spec.out_width, spec.out_channels)
    params = epilogue_params(rng, epilogue, shape, weights[0].size * 255 * 255)
    expected = finish(epilogue, convolve(spec, data, weights), params)
    choices = conv_choices(spec, batch.isa, 2)
    choice = next((c for c in choices if c.family == family), None)
    assert family in ("", choice and choice.family)
    kernel = conv2d(spec, epilogue, batch.isa, 2, choice)
    inputs = [data, kernel.layout.pack(weights), *params]
    batch.add(f"{kernel.choice} {spec}", kernel.prim_func, inputs, expected)


@pytest.mark.parametrize("isa", ISAS)
def test_layers_of_the_networks(isa, tmp_path):
    need_machine(isa)
    batch = Batch(isa)
    for number, spec in enumerate(NETWORK.values()):
        data, weights = operands(spec, np.random.default_rng(number), extreme=number % 2 == 1)
        add_layer(batch, spec, PAPER, data, weights)
    upsampled = Epilogue((AddBias(), SkipAdd(upsample=2, other_identity=True)), (StoreStream(),))
    spec = ConvSpec(8, 6, 16, 24, (1, 1))
    add_layer(batch, spec, upsampled, *operands(spec, np.random.default_rng(0), extreme=False))
    batch.check(tmp_path)


@pytest.mark.parametrize("isa", ISAS)
def test_winograd_ends_with_every_store(isa, tmp_path):
    need_machine(isa)
    rng, batch = np.random.default_rng(3), Batch(isa)
    spec = ConvSpec(7, 10, 32, 18, **SAME, input_range=(0, 15), weight_range=(-15, 15))
    data = rng.integers(0, 16, (7, 10, 32)).astype(np.uint8)
    weights = (2 * rng.integers(-8, 8, (18, 32, 3, 3)) + 1).astype(np.int8)
    assert "f2x2_halved" in exact_forms(weights, (0, 15))
    add_layer(batch, replace(spec, winograd=("f2x2_halved",)), PAPER, data, weights, "winograd")
    batch.check(tmp_path)


@pytest.mark.parametrize("isa", ISAS)
def test_every_multiply_shift(isa, tmp_path):
    need_machine(isa)
    rng, batch = np.random.default_rng(11), Batch(isa)

    def add(epilogue: Epilogue, data: np.ndarray, params: list[np.ndarray], expected: np.ndarray) -> None:
        function = pointwise.epilogue_func(1, OPERANDS, CHANNELS, epilogue, isa, 1)
        batch.add(epilogue, function, [data, *params], [expected])

    for form in FORMS:
        constants, interval = extremes(rng, form)
        scaled = scale_stream(constants, interval)
        assert scaled.scaling.form == form
        data = scaling_operands(rng, interval, [])
        steps = Epilogue((MultiplyShift(scaled.scaling),), (StoreStream(),))
        add(steps, data, scaled.arrays, exact(constants, data).astype(np.int32))
    for (lo, hi, dtype), bits, factor_bits in zip(
        LEVELS, (9, 16, 24, 31, 32), (28, 20, 12, 6, 2), strict=True
    ):
        interval = an_interval(rng, bits)
        constants = requantization(rng, interval, (lo, hi), factor_bits)
        scaled = scale_requantize(constants, interval, (lo, hi))
        data = scaling_operands(rng, interval, [])
        expected = np.clip(exact(constants, data), lo, hi).astype(dtype)
        add(Epilogue((), (StoreRequantize(lo, hi, dtype, scaled.scaling),)), data, scaled.arrays, expected)
    batch.check(tmp_path)


@pytest.mark.parametrize("isa", ISAS)
def test_network_outputs(isa, tmp_path):
    """Convolutions that store [1, C, H, W], with register tiles and with tiles of Winograd."""
    need_machine(isa)
    rng, batch = np.random.default_rng(5), Batch(isa)
    ranges = {"input_range": (0, 15), "weight_range": (-8, 7), "winograd": ("c4x4", "f2x2")}
    for shape, channels, out, family in (((13, 11), 8, 18, "blocked"), ((9, 7), 32, 12, "winograd")):
        spec = ConvSpec(*shape, channels, out, **SAME, **ranges)
        data = rng.integers(0, 16, (*shape, channels)).astype(np.uint8)
        weights = rng.integers(-3, 4, (out, channels, 3, 3)).astype(np.int8)
        choice = next(c for c in conv_choices(spec, isa, 2) if c.family == family)
        kernel = conv2d(spec, Epilogue((Relu(),), (StoreBorder(),)), isa, 2, choice)
        expected = np.maximum(convolve(spec, data, weights), 0).astype(np.int32).transpose(2, 0, 1)[None]
        batch.add(choice, kernel.prim_func, [data, kernel.layout.pack(weights)], [expected])
    batch.check(tmp_path)


@pytest.mark.parametrize("isa", ISAS)
def test_pools_and_movement(isa, tmp_path):
    need_machine(isa)
    rng, batch = np.random.default_rng(6), Batch(isa)
    for name in ("vectors", "uneven", "signed"):
        spec, pool = POOLED[name]
        data, weights = operands(spec, rng, extreme=False)
        stores = (StoreStream(), StoreRequantize(0, 15))
        value = max_pooled(np.maximum(convolve(spec, data, weights), 0), pool)
        params = epilogue_params(rng, Epilogue((), stores), value.shape, 2**24)
        kernel = conv2d(spec, Epilogue((Relu(),), stores, pool), isa, 2)
        expected = finish(Epilogue((), stores), value, params)
        batch.add(name, kernel.prim_func, [data, kernel.layout.pack(weights), *params], expected)
    data = rng.integers(-128, 128, (6, 5, 37)).astype(np.int8)
    windows = np.lib.stride_tricks.sliding_window_view(data, (2, 2), (0, 1))
    function = pointwise.max_pool(6, 5, 37, (2, 2), (1, 1), (0, 0, 0, 0), "int8", 2)
    batch.add("pool", function, [data], [windows.max((-2, -1))])
    batch.add("up", pointwise.upsample(6, 5, 37, (2, 3), "int8", 2), [data], [data.repeat(2, 0).repeat(3, 1)])
    planes = np.ascontiguousarray(data.transpose(2, 0, 1)[None])
    batch.add("planes", pointwise.nchw_to_nhwc(6, 5, 37, "int8", 2), [planes], [data])
    batch.check(tmp_path)


@pytest.mark.parametrize("isa", ISAS)
def test_stored_weights_expand_to_the_packed_ones(isa, tmp_path):
    need_machine(isa)
    rng, batch = np.random.default_rng(8), Batch(isa)
    spec = ConvSpec(6, 6, 16, 10, **SAME, input_range=(0, 3), weight_range=(-3, 3))
    spec = replace(spec, winograd=("f2x2", "f4x4_wide"))
    choices = conv_choices(spec, isa, 1)
    for family in ("blocked", "winograd"):
        choice = next(c for c in choices if c.family == family)
        layout = conv2d(spec, Epilogue(), isa, 1, choice).layout
        for bits, offset, step in ((2, -3, 2), (3, -7, 2)):
            codes = rng.integers(0, 1 << bits, (10, 16, 3, 3)).astype(np.uint8)
            packed = layout.pack((offset + step * codes.astype(np.int32)).astype(np.int8))
            function = unpack_func((10, 16, 3, 3), bits, offset, step, layout)
            stream = pack_codes(codes.transpose(0, 2, 3, 1), bits)
            batch.add((family, bits), function, [stream], [packed.reshape(layout.shape)])
    values = rng.integers(-(2**62), 2**62, 128)
    frames = encode_frames(values)
    function = expand_func(len(frames.widths), len(frames.planes), "int64")
    batch.add("frames", function, [frames.bases, frames.widths, frames.planes], [values])
    codes = np.clip(rng.normal(128, 20, 5000), 0, 255).astype(np.uint8)
    rice = encode_rice(codes)
    function = expand_rice_func(rice.count, rice.words.size, rice.centre, rice.shift)
    batch.add("rice", function, [rice.words, rice.starts], [codes])
    batch.check(tmp_path)


@pytest.mark.parametrize("isa", ISAS)
def test_the_peak_probe_multiplies_what_it_says(isa, tmp_path):
    need_machine(isa)
    batch, threads, steps = Batch(isa), 2, 3
    for dots in instruction_set(isa).peaks:
        weights = np.random.default_rng(1).integers(-3, 4, dots.vector_bytes).astype(np.int8)
        count = peak_outputs(dots, 1) // dots.sums
        name, width = dots.peak_sums
        dtype = np.dtype(name)
        acc = np.repeat(np.arange(1, count + 1, dtype=dtype)[:, None], width, axis=1)
        for _ in range(steps):
            samples = acc.view(np.int8).astype(np.int64)
            if dots.pixels == 2:
                products = samples[:, :16].reshape(count, 1, 2, 1, 8) * weights.reshape(2, 1, 2, 8)
                acc = acc + products.sum(4).reshape(count, width).astype(dtype)
            else:
                products = samples[:, : weights.size] * weights
                acc = (acc + products.reshape(count, width, -1).sum(2)).astype(dtype)
        expected = np.tile(acc.view(np.int32).reshape(-1), threads)
        batch.add(dots.name, peak_func(dots, threads, steps), [weights], [expected])
        assert peak_macs(dots, steps) == count * weights.size * dots.pixels * steps
    batch.check(tmp_path)
