"""Packed weights: the numpy packer against the definition, the TIR unpacker against the packer."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_reference import MCPU, call, compile_functions

from aqd_deploy.compiler.weights import encode
from aqd_deploy.errors import ShapeError
from aqd_deploy.kernels.cpu.unpack.weights import unpack_func
from aqd_deploy.kernels.storage.layout import WeightLayout, blob_size, pack_codes
from aqd_deploy.kernels.winograd.forms import FORMS
from aqd_deploy.kernels.winograd.layout import WinogradLayout
from aqd_deploy.targets.isa import Isa

plain = st.builds(
    WeightLayout,
    out_channels=st.integers(1, 40),
    in_channels=st.integers(1, 9),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    lanes=st.sampled_from([1, 8, 16]),
    dot=st.sampled_from([1, 2, 4]),
    dense=st.booleans(),
    whole=st.sampled_from([1, 1, 16]),
    doubled=st.booleans(),
)
folded = st.builds(
    WeightLayout,
    out_channels=st.integers(1, 40),
    in_channels=st.integers(1, 4),
    kernel=st.tuples(st.integers(2, 7), st.integers(1, 4)),
    lanes=st.just(16),
    dot=st.sampled_from([1, 4]),
    whole=st.sampled_from([1, 16]),
    doubled=st.booleans(),
    fold=st.integers(2, 4),
)
layouts = plain | folded


@given(layouts, st.integers(0, 2**32 - 1))
def test_pack_puts_every_weight_where_the_layout_says(layout, seed):
    shape = (layout.out_channels, layout.in_channels, *layout.kernel)
    weights = np.random.default_rng(seed).integers(1, 64, shape).astype(np.int8)
    packed = layout.pack(weights)
    assert packed.shape == layout.shape
    for o, ci, ky, kx in np.ndindex(*shape):
        row, within = divmod(ky, layout.fold)
        column = within * layout.kernel[1] + kx
        segment, k = (0, column * layout.in_channels + ci) if layout.dense else (kx, ci)
        at = (o // layout.lanes, row, segment, k // layout.dot, o % layout.lanes, k % layout.dot)
        assert packed[at] == (2 * weights[o, ci, ky, kx] + 1 if layout.doubled else weights[o, ci, ky, kx])
    # Weights are non-zero here, so whatever else is non-zero would be garbage in the padding.
    assert np.count_nonzero(packed) == weights.size


# (codes, lowest, stride, weights): a byte holds `codes` of them; not all that the grid has may occur.
SHARED = [
    (2, -15, 2, tuple(range(-15, 16, 2))),
    (2, -7, 1, tuple(range(-7, 8))),
    (2, -15, 2, (-7, -3, 5)),
    (2, -15, 2, (3,)),
    (4, -3, 2, (-3, -1, 1, 3)),
    (4, -1, 1, (-1, 0, 1)),
]


@pytest.mark.parametrize(("codes", "lowest", "stride", "values"), SHARED)
@pytest.mark.parametrize(("out_channels", "kernel", "dense"), [(32, (1, 1), True), (20, (3, 2), False)])
def test_codes_of_neighbouring_steps_share_bytes(codes, lowest, stride, values, out_channels, kernel, dense):
    plain = WeightLayout(out_channels, 64, kernel, 16, 4, dense, whole=16)
    layout = replace(plain, codes=codes, grid=(lowest, stride))
    weights = np.random.default_rng(1).choice(np.array(values, np.int8), (out_channels, 64, *kernel))
    packed = layout.pack(weights)
    bits = 8 // codes
    steps = [(packed.view(np.uint8) >> (at * bits)) & ((1 << bits) - 1) for at in range(codes)]
    expanded = np.stack(steps, 4).astype(np.int16) * stride + lowest
    there = plain.pack(np.ones_like(weights)).astype(bool)
    assert np.array_equal(expanded.reshape(plain.shape)[there], plain.pack(weights)[there])
    stored = encode(weights)
    function = unpack_func(stored.shape, stored.bits, stored.offset, stored.step, layout)
    module = compile_functions({"unpack": function}, MCPU[Isa.PORTABLE])
    (unpacked,) = call(module["unpack"], [stored.stream], [np.full(layout.shape, 55, np.int8)])
    assert np.array_equal(unpacked, packed)


def test_pack_refuses_another_shape():
    with pytest.raises(ShapeError, match="layout"):
        WeightLayout(4, 3, (1, 1), 16, 4).pack(np.zeros((4, 2, 1, 1), np.int8))


@given(st.integers(1, 8), st.lists(st.integers(0, 255), min_size=1, max_size=50))
def test_bit_stream_holds_the_codes_in_order(bits, values):
    codes = np.array(values, np.uint8) & ((1 << bits) - 1)
    blob = pack_codes(codes, bits)
    assert blob.size == blob_size(codes.size, bits)
    number = int.from_bytes(blob.tobytes(), "little")
    assert [(number >> (i * bits)) & ((1 << bits) - 1) for i in range(codes.size)] == codes.tolist()


@pytest.mark.parametrize(
    ("bits", "offset", "step"),
    [
        (1, -1, 2),
        (2, -3, 2),
        (3, -7, 2),
        (4, -15, 2),
        (4, -8, 1),
        (5, -31, 2),
        (6, -96, 3),
        (7, -64, 1),
        (8, -128, 1),
    ],
)
@settings(max_examples=3)
@given(layouts, st.integers(0, 2**32 - 1))
def test_unpacking_a_stream_is_packing_its_weights(bits, offset, step, layout, seed):
    shape = (layout.out_channels, layout.in_channels, *layout.kernel)
    codes = np.random.default_rng(seed).integers(0, 1 << bits, shape).astype(np.uint8)
    function = unpack_func(shape, bits, offset, step, layout)
    module = compile_functions({"unpack": function}, MCPU[Isa.PORTABLE])
    stream = pack_codes(codes.transpose(0, 2, 3, 1), bits)
    (packed,) = call(module["unpack"], [stream], [np.full(layout.shape, 55, np.int8)])
    assert np.array_equal(packed, layout.pack((offset + step * codes.astype(np.int32)).astype(np.int8)))


WINOGRAD = [
    ("f2x2", 4, 2, 3, (10, 7), (-3, -1, 1, 3), False),
    ("f2x2", 8, 1, 1, (9, 5), (0, 1), False),
    ("c4x4", 4, 4, 2, (8, 6), (-3, -1, 1, 3), False),
    ("c4x4_halved", 8, 4, 2, (16, 8), (-15, -5, 3, 15), False),
    ("c4x4_halved", 16, 4, 1, (5, 4), (-7,), False),
    ("f2x2_halved", 16, 4, 2, (33, 9), (-8, -3, 0, 7), True),
    ("f2x4", 4, 4, 1, (4, 4), (-1, 0, 1), True),
    ("f4x4_wide", 4, 1, 2, (9, 3), (-128, -77, 5, 127), False),
    ("f4x4_wide", 8, 2, 2, (18, 5), (-128, -77, 5, 127), True),
]


@pytest.mark.parametrize(("form", "lanes", "dot", "blocks", "shape", "values", "odd"), WINOGRAD)
def test_transforms_of_a_stream_are_those_of_its_weights(form, lanes, dot, blocks, shape, values, odd):
    """Channels that fill no step or block, single weights, and both meanings of odd ones."""
    weights = np.random.default_rng(len(values)).choice(np.array(values, np.int8), (*shape, 3, 3))
    stored = encode(weights)
    shifts = tuple(int(shift) for shift in FORMS[form].shifts(0, 3))
    layout = WinogradLayout(form, *shape, lanes, dot, blocks, shifts, odd)
    function = unpack_func(stored.shape, stored.bits, stored.offset, stored.step, layout)
    module = compile_functions({"unpack": function}, MCPU[Isa.PORTABLE])
    (packed,) = call(module["unpack"], [stored.stream], [np.full(layout.shape, 55, np.int8)])
    np.testing.assert_array_equal(packed, layout.pack(weights))
