"""Times of the steps of an image, by a clock that is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from aqd_deploy.bench.steps import step_times
from aqd_deploy.errors import AqdError, ModelFileError

MANIFEST = {
    "preprocessing": {"input": "image", "height": 16, "width": 16, "color": "RGB", "pad_value": [0, 0, 0]},
    "detector": {
        "kind": "fcos", "classes": ["cat"], "strides": [8], "anchors": None,
        "outputs": {"cls": ["cls"], "box": ["box"], "ctr": ["ctr"]},
        "score_threshold": 0.05, "nms_iou": 0.6, "max_detections": 100, "pre_nms": 1000,
    },
}  # fmt: skip


def run(inputs):
    assert inputs["image"].shape == (1, 3, 16, 16)
    return {
        "cls": np.full((1, 1, 2, 2), -9.0, np.float32),
        "box": np.ones((1, 4, 2, 2), np.float32),
        "ctr": np.zeros((1, 1, 2, 2), np.float32),
    }


def clock_of(steps):
    """Four looks an image: the three steps take what is given, a second lies between images."""
    moments = itertools.accumulate(itertools.chain([0.0], *((a, b, c, 1.0) for a, b, c in steps)))
    return lambda: next(moments)


def test_medians_over_images_and_rounds():
    """The first image is not measured."""
    steps = [(9, 9, 9), (0.001, 0.010, 0.002), (0.003, 0.020, 0.002), (0.002, 0.030, 0.004), (0.002, 0.02, 0)]
    images = [np.zeros((20, 10, 3), np.uint8)] * 2
    found = step_times(run, MANIFEST, images, rounds=2, clock=clock_of(steps))
    assert (found.preprocess_ms, found.inference_ms, found.decode_ms) == (2.0, 20.0, 2.0)
    # Of 13, 25, 36 and 22.
    assert found.total_ms == 23.5
    told = found.told()
    assert (told["images"], told["rounds"]) == (2, 2)
    assert set(told["inside"]) == {"preprocess_ms", "inference_ms", "decode_ms"}


def test_nothing_to_time_and_no_detector_are_refused():
    image = [np.zeros((16, 16, 3), np.uint8)]
    with pytest.raises(AqdError, match="nothing to time"):
        step_times(run, MANIFEST, [])
    with pytest.raises(AqdError, match="nothing to time"):
        step_times(run, MANIFEST, image, rounds=0)
    with pytest.raises(ModelFileError):
        step_times(run, {"preprocessing": MANIFEST["preprocessing"]}, image)
