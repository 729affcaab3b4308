"""The whole of `eval`: a data set, stages of a network, a folder of results, gates and the report."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aqd_deploy.detection.image_files import printable
from aqd_deploy.detection.images import IMAGE_FILE
from aqd_deploy.devices import open_device
from aqd_deploy.errors import AqdError, DeviceError
from aqd_deploy.evaluation.accuracy import accuracy, match_classes
from aqd_deploy.evaluation.coco import checked
from aqd_deploy.evaluation.datasets import read_dataset
from aqd_deploy.evaluation.datasets.contract import DataSet, ImageFolder
from aqd_deploy.evaluation.gates import Gate, parse_gate
from aqd_deploy.reporting.report import REPORTS
from aqd_deploy.runtime.bundle_files import program_file
from aqd_deploy.targets.threads import thread_limits
from aqd_deploy.workflow.evaluation.document import Measured, report_of
from aqd_deploy.workflow.evaluation.images import ImageTask, Preparation, run_images
from aqd_deploy.workflow.evaluation.layers import check_layers, layer_sections
from aqd_deploy.workflow.evaluation.pictures import draw_pictures
from aqd_deploy.workflow.evaluation.results import ImageResult, RunFolder, StageResults
from aqd_deploy.workflow.evaluation.stages import Stage, StageFacts, check_one_network, check_stages

_SECONDS = 2.0
"""How often what was found is kept."""


@dataclass(frozen=True)
class Labelled:
    """The images to run, with the id of each and the data set that they are of."""

    dataset: DataSet
    folder: ImageFolder
    tasks: list[ImageTask]
    ids: dict[str, int | str]


@dataclass(frozen=True)
class Told:
    """Where the job tells how far it is: lines that stay, and what is replaced by the next of its kind."""

    line: Callable[[str], None] = lambda _: None
    status: Callable[[str], None] = lambda _: None


def evaluate_stages(
    stages: Sequence[Stage],
    annotations: Path,
    images: Path,
    output: Path,
    *,
    names: Path | None = None,
    limit: int | None = None,
    gates: Iterable[str] = (),
    processes: int = 1,
    layers: bool = False,
    told: Told | None = None,
) -> dict[str, Any]:
    """Run every stage over the labelled images and return the report, which is in the folder `output`, too.

    `annotations` are labels as `read_dataset` takes them, of images in the folder `images`; the first `limit`
    of them by name count. What `output` has of the same file, image and settings is not run again. `gates`
    (`parse_gate`) are measured, not enforced (`check_gates`). `layers` adds what `layer_sections` gives.

    Raises AqdError for labels, images, stages, gates or a folder that do not fit, and what running raises.
    """
    told = told or Told()
    check_stages(stages)
    if layers:
        check_layers(stages)
    asked = [parse_gate(text, [stage.name for stage in stages]) for text in gates]
    labelled = _labelled(annotations, images, names, limit, told)
    stages = [replace(stage, threads=_threads(stage, processes)) for stage in stages]
    facts = [StageFacts.of(stage) for stage in stages]
    matched = [match_classes(labelled.dataset, each.settings.classes) for each in facts]
    for document, _ in matched:
        # Before the work: that there is something to find in these images.
        checked(document, [], labelled.ids.values())
    network = check_one_network(stages, facts)
    inputs = [*(program_file(stage.path) for stage in stages), *(task.path for task in labelled.tasks)]
    inputs += [path for path in (names, annotations) if path is not None and path.is_file()]
    with RunFolder(output, network, [stage.name for stage in stages], REPORTS, inputs) as folder:
        preparation, measured = Preparation(), list[Measured]()
        for stage, fact, (document, ids) in zip(stages, facts, matched, strict=True):
            known = folder.known(stage.name, fact.key)
            seconds = _run(stage, labelled.tasks, known, preparation, processes, told)
            found = [known.found[task.name] for task in labelled.tasks]
            values = _accuracy(document, ids, labelled, found)
            measured.append(Measured(stage, fact, values, found, seconds))
        pictures = draw_pictures(output, labelled.tasks, measured, inputs)
        about = _about(labelled, annotations)
        sections = {}
        if layers:
            told.line("layer by layer, in the three numerics modes, with times and cost")
            sections = layer_sections(stages, [task.path for task in labelled.tasks], matched[0][0])
        report = report_of(about, network, measured, _gates(asked, measured), pictures, sections)
        folder.write_report(report)
    return report


def _labelled(annotations: Path, images: Path, names: Path | None, limit: int | None, told: Told) -> Labelled:
    folder = ImageFolder.of(images)
    dataset = read_dataset(annotations, folder, names)
    if not dataset.ids:
        raise AqdError(
            f"the annotations name none of the {len(folder.files)} images", received=str(images),
            valid="the folder of the images that they are for",
        )  # fmt: skip
    without = len(folder.files) - len(dataset.ids)
    if without:
        told.line(f"{without} of {len(folder.files)} images are not in the annotations and do not count")
    sizes = {each["id"]: _size(each) for each in dataset.document["images"]}
    chosen = sorted(dataset.ids, key=lambda path: path.relative_to(folder.root).parts)[:limit]
    tasks = [
        ImageTask(path, printable(path.relative_to(folder.root)), _sha256(path), sizes[dataset.ids[path]])
        for path in chosen
    ]
    ids = {task.name: dataset.ids[task.path] for task in tasks}
    return Labelled(dataset, folder, tasks, ids)


def _size(image: dict[str, Any]) -> tuple[int, int] | None:
    """Width and height, where both are told."""
    width, height = image.get("width"), image.get("height")
    if isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0:
        return width, height
    return None


def _sha256(path: Path) -> str:
    return hashlib.sha256(IMAGE_FILE.read(path)).hexdigest()


def _threads(stage: Stage, processes: int) -> int | None:
    """Those of each process: on this machine all together use what is there."""
    if stage.threads is not None or processes == 1 or not open_device(stage.device).here:
        return stage.threads
    return max(1, thread_limits().usual // processes)


def _run(
    stage: Stage, tasks: Sequence[ImageTask], known: StageResults, preparation: Preparation, processes: int,
    told: Told,
) -> float:  # fmt: skip
    """Run the stage on the images that it was not run on before; the seconds that this took."""
    found = known.found
    todo = [each for each in tasks if each.name not in found or found[each.name].sha256 != each.sha256]
    done = len(tasks) - len(todo)
    if done:
        told.line(f"{stage.name}: {done} of {len(tasks)} images are known from an earlier run")
    if todo:
        processes = _processes(stage, processes, told)
    started = kept = time.monotonic()
    waiting: list[ImageResult] = []
    count = 0

    def lost(error: DeviceError) -> None:
        told.line(f"{stage.name}: {error.what}; its images are run by those that are left")

    try:
        with closing(run_images(stage, todo, preparation, processes, lost)) as running:
            for results in running:
                waiting += results
                count += len(results)
                now = time.monotonic()
                told.status(_progress(stage.name, done + count, len(tasks), (now - started) / count))
                if now - kept > _SECONDS:
                    known.add(waiting)
                    waiting, kept = [], now
    finally:
        if waiting:
            known.add(waiting)
    if known.parts:
        known.finish()
    return time.monotonic() - started if todo else 0.0


def _processes(stage: Stage, asked: int, told: Told) -> int:
    """As many as were asked for, but no more than there are boards: one without would wait to the end."""
    tracker = open_device(stage.device).tracker
    boards = asked if asked == 1 or tracker is None else tracker.servers()
    if boards < asked:
        told.line(f"{stage.name}: {boards} boards have this key, so {boards} of {asked} processes run")
    return min(asked, boards)


def _progress(name: str, done: int, count: int, seconds: float) -> str:
    minutes, rest = divmod(int(seconds * (count - done)), 60)
    return f"{name}: {done} of {count} images, {minutes}:{rest:02} left"


def _accuracy(
    document: dict[str, Any], ids: Sequence[int], labelled: Labelled, found: Sequence[ImageResult]
) -> dict[str, Any]:
    records = [record for each in found for record in each.records(labelled.ids[each.file], ids)]
    return dict(accuracy(document, records, labelled.ids.values()))


def _gates(gates: Sequence[Gate], measured: Sequence[Measured]) -> list[dict[str, Any]]:
    values = {each.stage.name: each.accuracy for each in measured}
    return [gate.measured(values, measured[0].stage.name) for gate in gates]


def _about(labelled: Labelled, annotations: Path) -> dict[str, Any]:
    return {
        "folder": str(labelled.folder.root),
        "count": len(labelled.tasks),
        "annotated": True,
        "format": labelled.dataset.format,
        "annotations": {"file": str(annotations), "sha256": labelled.dataset.sha256},
    }
