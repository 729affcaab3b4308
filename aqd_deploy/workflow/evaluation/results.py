"""What a stage found in each image, and the folder in which that is kept.

`results/<stage>.json` has the boxes of every image that the stage was run on, by the content of the image, of
the stage's file and of its settings: what has the same is not run again. What is found on the way is a part
of its own, `results/<stage>.part<n>.json`, so that a run which is killed goes on from there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from aqd_deploy.errors import AqdError
from aqd_deploy.inputs import GIB, MIB, FileKind
from aqd_deploy.own_files import OwnFiles
from aqd_deploy.reporting.report import write_report
from aqd_deploy.schema import SchemaError, list_of, number, one_of, table, text, whole
from aqd_deploy.workflow.evaluation.stages import check_same_network

VERSION = 1
RUN, RESULTS, VERB = "run.json", "results", "eval"
STEPS = ("preprocess", "inference", "decode")
_NEXT = "the same command with another folder behind -o"
_RUN_FILE = FileKind("run file", "a file that eval wrote", MIB, next_command=_NEXT)
_RESULTS_FILE = FileKind("results file", "a file that eval wrote", GIB, next_command=_NEXT)
_BOX = list_of(number(), 6, 6)
_VERSION = {"version": one_of(VERSION)}
_RUN_SCHEMA = table({"network": table({"kind": text, "classes": list_of(text)}, {"name": text})})
_RESULTS_SCHEMA = table({
    "key": table({}),
    "images": list_of(table({
        "file": text, "sha256": text, "width": whole(1), "height": whole(1), "boxes": list_of(_BOX),
        "ms": list_of(number(0), len(STEPS), len(STEPS)),
    })),
})  # fmt: skip


@dataclass(frozen=True)
class ImageResult:
    """What was found in an image: `file` is its path in the folder of images, `boxes` are x, y, width and
    height in pixels, score and label (index of the class); `ms` what each of STEPS took.
    """

    file: str
    sha256: str
    width: int
    height: int
    boxes: list[list[float]]
    ms: list[float]

    def records(self, image_id: int | str, ids: Sequence[int]) -> list[dict[str, Any]]:
        """As COCO result records; `ids` are the category ids of the labels."""
        return [
            {"image_id": image_id, "category_id": ids[int(label)], "bbox": bbox, "score": score}
            for *bbox, score, label in self.boxes
        ]


class RunFolder:
    """The folder of `eval`. Use it with `with`; `views` are the files that are written at the end.

    Raises what `OwnFiles` raises, and AqdError where the folder is of another version or another network.
    """

    def __init__(
        self, folder: Path, network: dict[str, Any], stages: Iterable[str], views: Iterable[str],
        inputs: Iterable[Path],
    ) -> None:  # fmt: skip
        self.folder, self._network = folder, network
        taken = list(inputs)
        self._own = OwnFiles(folder, VERB, (RUN, *views), taken)
        self._stages = [f"{stage}.json" for stage in stages]
        self._results = OwnFiles(folder / RESULTS, VERB, self._stages, taken)
        self._stack = ExitStack()

    def __enter__(self) -> RunFolder:
        known = _read_run(self.folder / RUN)
        if known is not None:
            what = f"{self.folder} has results of another network"
            check_same_network(known["network"], self._network, what)
        for name in self._stages:
            _check_content(self.folder / RESULTS / name, _RESULTS_FILE)
        with ExitStack() as stack:
            stack.enter_context(self._own)
            stack.enter_context(self._results)
            network = {**(known["network"] if known else {}), **self._network}
            self.write(RUN, {"version": VERSION, "network": network})
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def write(self, name: str, document: object) -> None:
        """Write a JSON document into the folder."""
        _publish(self._own, name, json.dumps(document, indent=2, allow_nan=False) + "\n")

    def write_report(self, document: dict[str, Any]) -> None:
        """Write a report and its views into the folder."""
        with self._own.writing():
            staged = write_report(self._own.staging, document, self.folder)
        for path in staged:
            self._own.publish(path, path.name)

    def known(self, stage: str, key: dict[str, Any]) -> StageResults:
        """What was found before by the same file with the same settings. Raises AqdError for a file that eval
        did not write so.
        """
        names = [f"{stage}.json", *self._parts(stage)]
        found: dict[str, ImageResult] = {}
        for name in names:
            path = self.folder / RESULTS / name
            if path.exists() and (document := _read_results(path))["key"] == key:
                found |= {each["file"]: ImageResult(**each) for each in document["images"]}
        return StageResults(self._results, stage, key, found, self._parts(stage))

    def _parts(self, stage: str) -> list[str]:
        """The names of the parts that an earlier run left."""
        return sorted(name for name in self._results.earlier() if name.startswith(f"{stage}.part"))


@dataclass
class StageResults:
    """The results of one stage, by the images' names; they grow by `add`."""

    own: OwnFiles
    stage: str
    key: dict[str, Any]
    found: dict[str, ImageResult]
    parts: list[str]

    def add(self, results: Sequence[ImageResult]) -> None:
        """Keep these, at once."""
        name = f"{self.stage}.part{len(self.parts):06}.json"
        self._write(name, results)
        self.parts.append(name)
        self.found |= {each.file: each for each in results}

    def finish(self) -> None:
        """Put all into one file."""
        self._write(f"{self.stage}.json", [self.found[name] for name in sorted(self.found)])
        self.own.remove(self.parts)
        self.parts = []

    def _write(self, name: str, results: Sequence[ImageResult]) -> None:
        document = {"version": VERSION, "key": self.key, "images": [asdict(each) for each in results]}
        _publish(self.own, name, json.dumps(document, allow_nan=False) + "\n")


def _publish(own: OwnFiles, name: str, content: str) -> None:
    staged = own.staging / name
    with own.writing(), staged.open("w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        # A rename may be on the disk before the content is.
        os.fsync(file.fileno())
    own.publish(staged, name)


def _read_run(path: Path) -> dict[str, Any] | None:
    return _read(path, _RUN_FILE, _RUN_SCHEMA) if os.path.lexists(path) else None


def _read_results(path: Path) -> dict[str, Any]:
    return _read(path, _RESULTS_FILE, _RESULTS_SCHEMA)


def _read(path: Path, kind: FileKind, schema: Any) -> dict[str, Any]:
    _check_content(path, kind)
    document = kind.read_json(path)
    try:
        table(_VERSION)(document, "")
        schema(document, "")
    except SchemaError as error:
        raise error.of(str(path), AqdError, _NEXT) from error
    return dict(document)


def _check_content(path: Path, kind: FileKind) -> None:
    if path.is_file() and path.stat().st_size == 0:
        raise AqdError(f"the {kind.name} is empty", received=str(path), valid=kind.valid, next_command=_NEXT)
