"""Arithmetic of integer files, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from small_models import INT8, ModelWriter, every_operation

from aqd_deploy.integer.arithmetic import Arithmetic, interval_bits, weight_bits
from aqd_deploy.integer.counts import by_bits, node_counts
from aqd_deploy.integer.ranges import Interval
from aqd_deploy.integer.reader import read_graph


def counted(writer):
    return {each.name: each for each in node_counts(read_graph(writer.model({"ranges": {}})))}


def small():
    """4 × 6 pixels, 2 channels of codes of 4 bits; a 3 × 3 convolution to 3 channels, twice by one weight."""
    w = ModelWriter()
    image = w.image("image", 2, 4, 6)
    stream = w.multiply_shift(w.cast(image), 2)
    codes = w.requantize(stream, 2)
    weight = w.weight(3, 2, 3, 4)
    first, second = (
        w.conv(codes, weight, strides=[1, 1], pads=[1, 1, 1, 1], dilations=[1, 1]) for _ in range(2)
    )
    added = w.skip_add(first, second, 3)
    reached = w.threshold(added, 3, steps=3)
    pooled = w.max_pool(reached, 2, 2, 0)
    w.output(w.cast(pooled), [1, 3, 2, 3])
    return w, (stream, codes, first, added, reached, pooled)


def test_every_operation_of_a_small_network():
    writer, (stream, codes, first, added, reached, pooled) = small()
    found = counted(writer)
    assert found[stream].arithmetic == Arithmetic(products=48, sums=48)
    assert found[codes].arithmetic == Arithmetic(products=48, sums=3 * 48)
    assert found[first].arithmetic == Arithmetic(macs=24 * 3 * 18)
    assert (found[first].weights, found[first].weight_bits, found[first].activation_bits) == (54, 4, 4)
    # One side is as it is: a product and a sum of the other one, and the sum of both.
    assert found[added].arithmetic == Arithmetic(products=72, sums=144)
    assert found[reached].arithmetic == Arithmetic(sums=2 * 3 * 72)
    assert found[pooled].arithmetic == Arithmetic(sums=18 * 3)


def test_totals_count_a_shared_weight_once():
    writer, _ = small()
    totals = by_bits(node_counts(read_graph(writer.model({"ranges": {}}))))
    assert totals["macs"] == {"4x4": 2 * 24 * 3 * 18}
    assert totals["weights"] == {"4": 54}
    assert totals["products"] == {"32": 48 + 48 + 72}
    assert totals["sums"] == {"32": 48 + 144 + 144 + 432 + 54}


def test_what_computes_is_counted_and_what_moves_is_not():
    counts = {each.operation: each.arithmetic for each in node_counts(read_graph(every_operation()))}
    idle = {name for name, each in counts.items() if each == Arithmetic()}
    assert idle == {
        *("Cast", "Concat", "DepthToSpace_CRD", "DepthToSpace_DCR", "Gather", "Lookup", "PadImage"),
        *("PadSignedImage", "Rearrange", "Resize", "Slice"),
    } & set(counts)
    assert {"Pieces", "Steps", "Multiply", "StreamMultiply", "SumPool", "StreamSumPool"} <= set(counts) - idle
    assert all(each.macs for name, each in counts.items() if name.startswith("Conv"))


def test_linear_resizing_by_hand():
    """Rows by 2: 2·4 × 3 elements of two products and a sum; then columns by 2: 8 × 6."""
    w = ModelWriter()
    resized = w.resize_linear(w.image("image", 1, 4, 3), (2, 2), 1)
    w.output(resized, [1, 1, 8, 6])
    assert counted(w)[resized].arithmetic == Arithmetic(products=2 * (24 + 48), sums=24 + 48)


@pytest.mark.parametrize(
    ("weights", "takes_bytes", "bits"),
    [
        (np.array([-3, -1, 1, 3], np.int8), False, 2),
        (np.array([-15, 15], np.int8), False, 4),
        (np.array([-1, 1], np.int8), False, 2),
        (np.array([-8, 0, 7], np.int8), False, 4),
        (np.array([-128, 3], np.int8), False, 8),
        (np.array([1, 2], np.int8), True, 8),
        (np.array([1, 2], np.uint8), False, 8),
        (np.array([], np.int8), False, 8),
    ],
)
def test_bits_of_weights(weights, takes_bytes, bits):
    assert weight_bits(weights, takes_bytes) == bits


@pytest.mark.parametrize(
    ("low", "high", "bits"), [(0, 15, 4), (0, 255, 8), (0, 0, 1), (-8, 7, 4), (-9, 7, 5)]
)
def test_bits_of_intervals(low, high, bits):
    assert interval_bits(Interval.uniform(3, low, high)) == bits


def test_signed_codes_count_their_sign():
    w = ModelWriter()
    codes = w.requantize(w.multiply_shift(w.cast(w.image("image", 2, 3, 3)), 2), 2, lo=-8, hi=7, to=INT8)
    out = w.conv(codes, w.weight(2, 2, 1, 3), strides=[1, 1], dilations=[1, 1])
    w.output(out, [1, 2, 3, 3])
    assert (counted(w)[out].weight_bits, counted(w)[out].activation_bits) == (3, 4)
