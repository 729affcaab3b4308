"""What an image takes from its pixels to its boxes: before the network, the network, behind it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from aqd_deploy.detection.decode import Postprocess
from aqd_deploy.detection.images import Preprocess
from aqd_deploy.errors import AqdError

INSIDE = {
    "preprocess_ms": "resizing and letterboxing the decoded image (uint8 [H, W, 3]) to the network's input; "
    "not the reading and decoding of its file",
    "inference_ms": "one run of the network on that input, batch 1, copies of inputs and outputs included",
    "decode_ms": "from the network's integers to boxes of the image: scores, boxes, class-wise NMS",
}
Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


@dataclass(frozen=True)
class StepTimes:
    """Medians over all measured images, in milliseconds; the three steps run one after the other, so
    `total_ms` is the median of their sums. `images` were measured, each `rounds` times.
    """

    preprocess_ms: float
    inference_ms: float
    decode_ms: float
    total_ms: float
    images: int
    rounds: int

    def told(self) -> dict[str, Any]:
        """JSON-able, with `inside`: what each step has in it."""
        return {**asdict(self), "inside": dict(INSIDE)}


def step_times(
    run: Run,
    manifest: dict[str, Any],
    images: Sequence[np.ndarray],
    *,
    rounds: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> StepTimes:
    """Times the steps on decoded images (uint8 [H, W, 3] RGB), after one image that isn't measured.

    `run` is a program's or the reference's. Raises AqdError where there are no images or `rounds` is below 1,
    ModelFileError for a manifest without preprocessing or detector.
    """
    if not images or rounds < 1:
        raise AqdError(
            "there is nothing to time",
            received=f"{len(images)} images, {rounds} rounds",
            valid="at least one of each",
        )
    preprocess, postprocess = Preprocess.from_manifest(manifest), Postprocess.from_manifest(manifest)

    def one(image: np.ndarray) -> tuple[float, float, float]:
        started = clock()
        tensor, placement = preprocess(image)
        prepared = clock()
        outputs = run({preprocess.input: tensor})
        ran = clock()
        postprocess(outputs, placement)
        return prepared - started, ran - prepared, clock() - ran

    one(images[0])
    seconds = np.array([one(image) for _ in range(rounds) for image in images])
    before, network, behind = (_milliseconds(column) for column in seconds.T)
    return StepTimes(before, network, behind, _milliseconds(seconds.sum(axis=1)), len(images), rounds)


def _milliseconds(seconds: np.ndarray) -> float:
    return round(float(np.median(seconds)) * 1e3, 4)
