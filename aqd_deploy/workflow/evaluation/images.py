"""Runs a stage over images: while the network runs on one, the next ones are decoded and preprocessed."""

from __future__ import annotations

import atexit
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import numpy as np

from aqd_deploy.detection.decode import Postprocess
from aqd_deploy.detection.images import Placement, Preprocess, load_image
from aqd_deploy.detection.results import coco_results
from aqd_deploy.devices import open_device
from aqd_deploy.errors import AqdError, DeviceError, ImageError
from aqd_deploy.workflow.evaluation.results import ImageResult
from aqd_deploy.workflow.evaluation.stages import Stage
from aqd_deploy.workflow.evaluation.workers import WorkerEnded, Workers
from aqd_deploy.workflow.runners import Runner

_AHEAD = 2
"""Images that are decoded before the network asks for them."""
_CACHED_BYTES = 256 << 20
_BATCH = 4
"""Images that a process is given at once."""


@dataclass(frozen=True)
class ImageTask:
    """An image file, its name in results, its content's hash and, where labels tell it, width and height."""

    path: Path
    name: str
    sha256: str
    size: tuple[int, int] | None


@dataclass(frozen=True)
class Prepared:
    """An image as a network takes it, and how many milliseconds that took."""

    tensor: np.ndarray
    placement: Placement
    ms: float


@dataclass
class Preparation:
    """Decodes and preprocesses images; what the stages share is kept, in `room` bytes."""

    room: int = _CACHED_BYTES
    _kept: dict[tuple[Path, Preprocess], Prepared] = field(default_factory=dict)

    def __call__(self, task: ImageTask, preprocess: Preprocess) -> Prepared:
        """Raises ImageError, also where the image is not of the size that the labels are for."""
        key = (task.path, preprocess)
        if (kept := self._kept.get(key)) is not None:
            return kept
        started = time.perf_counter()
        image = load_image(task.path)
        size = (image.shape[1], image.shape[0])
        if task.size is not None and task.size != size:
            raise ImageError(
                "the image has another size than its labels are for",
                received=f"{task.path}: {size[0]} x {size[1]}", valid=f"{task.size[0]} x {task.size[1]}",
            )  # fmt: skip
        tensor, placement = preprocess(image)
        prepared = Prepared(tensor, placement, 1e3 * (time.perf_counter() - started))
        if tensor.nbytes <= self.room:
            self._kept[key] = prepared
            self.room -= tensor.nbytes
        return prepared


def run_images(
    stage: Stage,
    tasks: Sequence[ImageTask],
    preparation: Preparation,
    processes: int = 1,
    lost: Callable[[DeviceError], None] = lambda _: None,
) -> Generator[list[ImageResult], None, None]:
    """What the stage finds in each image, a few images at a time.

    With several processes each has the network for itself, and a board of its own where the device lends
    boards: `lost` is told of one that is lost, and the others do its images. Raises ImageError, what the
    network raises, and AqdError where a process is lost.
    """
    if not tasks:
        return
    if processes == 1:
        with stage.opened() as runner:
            for result in _overlapped(runner, tasks, preparation):
                yield [result]
        return
    batches = [tasks[start : start + _BATCH] for start in range(0, len(tasks), _BATCH)]
    of_farm = open_device(stage.device).tracker is not None
    workers = Workers(partial(_run_batch, stage), processes, take_over=of_farm, lost=lost)
    try:
        yield from workers.results(batches)
    except WorkerEnded as error:
        raise AqdError(
            "a process that ran the network ended before its time", received=str(stage.path),
            valid="memory for all of them", next_command="the same command with fewer --processes",
        ) from error  # fmt: skip


def _overlapped(
    runner: Runner, tasks: Sequence[ImageTask], preparation: Preparation
) -> Iterator[ImageResult]:
    preprocess = Preprocess.from_manifest(runner.manifest)
    find = _finder(runner, preprocess)
    waiting: deque[tuple[ImageTask, Future[Prepared]]] = deque()
    # One thread: readers of images share state that knows no threads.
    pool = ThreadPoolExecutor(1)
    try:
        for task in tasks:
            waiting.append((task, pool.submit(preparation, task, preprocess)))
            if len(waiting) > _AHEAD:
                first, prepared = waiting.popleft()
                yield find(first, prepared.result())
        for task, prepared in waiting:
            yield find(task, prepared.result())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _finder(runner: Runner, preprocess: Preprocess) -> Callable[[ImageTask, Prepared], ImageResult]:
    postprocess = Postprocess.from_manifest(runner.manifest)

    def find(task: ImageTask, prepared: Prepared) -> ImageResult:
        started = time.perf_counter()
        outputs = runner.detect({preprocess.input: prepared.tensor})
        ran = time.perf_counter()
        records = coco_results(task.name, detections := postprocess(outputs, prepared.placement))
        boxes = [
            [*record["bbox"], record["score"], label]
            for record, label in zip(records, detections.labels.tolist(), strict=True)
        ]
        ms = [prepared.ms, 1e3 * (ran - started), 1e3 * (time.perf_counter() - ran)]
        placement = prepared.placement
        return ImageResult(
            task.name, task.sha256, placement.width, placement.height, boxes, [round(each, 3) for each in ms]
        )

    return find


def _run_batch(stage: Stage, tasks: Sequence[ImageTask]) -> list[ImageResult]:
    find = _in_this_process(stage)
    return [find(task) for task in tasks]


@cache
def _in_this_process(stage: Stage) -> Callable[[ImageTask], ImageResult]:
    """What runs the stage in this process, which has it to its end."""
    stack = ExitStack()
    runner = stack.enter_context(stage.opened())
    atexit.register(stack.close)
    preprocess, preparation = Preprocess.from_manifest(runner.manifest), Preparation(room=0)
    find = _finder(runner, preprocess)
    return lambda task: find(task, preparation(task, preprocess))
