"""Output maps that are codes with a zero point: decoded like the floats that they stand for."""

from __future__ import annotations

import numpy as np
import pytest

from aqd_deploy.detection.decode import decode
from aqd_deploy.detection.images import Placement
from aqd_deploy.detection.maps import OutputMap
from aqd_deploy.errors import ScaleError

MEANINGS = {
    "cls": {"scale": [0.05, 0.0625, 0.11], "zero_point": [140, 128, 3]},
    "box": {"scale": 0.03125, "zero_point": 0},
    "ctr": {"scale": [0.05], "zero_point": -12},
}
DTYPES = {"cls": "uint8", "box": "uint8", "ctr": "int8"}
SETTINGS = {
    "kind": "fcos", "classes": ["a", "b", "c"], "strides": [8],
    "outputs": {kind: [kind] for kind in MEANINGS},
    "score_threshold": 0.3, "nms_iou": 0.6, "max_detections": 100, "pre_nms": 1000,
}  # fmt: skip


def codes(seed):
    generator = np.random.default_rng(seed)
    channels = {"cls": 3, "box": 4, "ctr": 1}
    return {
        name: generator.integers(
            np.iinfo(DTYPES[name]).min, np.iinfo(DTYPES[name]).max + 1, (1, channels[name], 8, 8)
        ).astype(DTYPES[name])
        for name in channels
    }


def reals(name, array):
    scale, zero = (np.reshape(MEANINGS[name][key], (1, -1, 1, 1)) for key in ("scale", "zero_point"))
    return (array.astype(np.int64) - zero) * scale.astype(np.float64)


@pytest.mark.parametrize("seed", range(4))
def test_codes_are_decoded_like_what_they_stand_for(seed):
    placement = Placement(64, 64, 0, 0, 64, 64)
    outputs = codes(seed)
    found = decode(outputs, {"detector": SETTINGS, "outputs": MEANINGS}, placement)
    floats = {name: reals(name, array) for name, array in outputs.items()}
    expected = decode(floats, {"detector": SETTINGS}, placement)
    assert len(found) == len(expected) > 5
    assert np.array_equal(found.boxes, expected.boxes) and np.array_equal(found.labels, expected.labels)
    # exp() of the same numbers, computed in one order or another.
    assert np.allclose(found.scores, expected.scores, rtol=1e-6)


def test_another_number_of_zero_points_is_refused():
    described = {"box": {"scale": 1.0, "zero_point": [1, 2, 3]}}
    with pytest.raises(ScaleError, match="wrong number of zero points; got 3; valid: 1 or 4"):
        OutputMap.of({"box": np.ones((1, 4, 2, 2), np.uint8)}, described, "box", 4)


def test_integers_without_a_zero_point_are_not_copied():
    array = np.ones((1, 4, 2, 2), np.int32)
    assert OutputMap.of({"box": array}, {"box": {"scale": 1.0}}, "box", 4).values.base is array
