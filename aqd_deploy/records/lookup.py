"""Tuned choices for the compiler: the records of a folder, or those that ship for this kind of CPU."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from aqd_deploy.errors import RecordsError
from aqd_deploy.kernels.contract.choice import Choice
from aqd_deploy.records.file import FILE_NAME, RECORDS_FILE, Records, parse_records
from aqd_deploy.records.task import AnyTask, is_tunable
from aqd_deploy.targets import Target


@dataclass
class Tuned:
    """Choices by task. `source` says where they come from ("none", "shipped", or "sha256:" and the beginning
    of the file's hash), `notes` what was ignored and why: neither depends on the folder of the records, since
    both go into programs. `of_other_cpus`: those notes that say only that records are of another CPU.
    """

    source: str = "none"
    notes: list[str] = field(default_factory=list)
    of_other_cpus: list[str] = field(default_factory=list)
    _exact: dict[str, Choice] = field(default_factory=dict)
    _seconds: dict[str, float] = field(default_factory=dict)
    _similar: dict[str, tuple[float, Choice]] = field(default_factory=dict)

    @classmethod
    def of(cls, choices: Mapping[str, Choice]) -> Tuned:
        """Choices for tasks by their keys, and for no others."""
        return cls(source="candidates", _exact=dict(choices))

    def find(self, task: AnyTask) -> tuple[Choice | None, str]:
        """The choice for a convolution and "task", or that of the same convolution with another epilogue and
        "shape", or None and "".
        """
        if not is_tunable(task.epilogue):
            return None, ""
        if task.key in self._exact:
            return self._exact[task.key], "task"
        if task.shape_key in self._similar:
            return self._similar[task.shape_key][1], "shape"
        return None, ""

    def seconds(self, task: AnyTask) -> float | None:
        """What `find`'s choice took when it was measured, one call; None where there is none."""
        if not is_tunable(task.epilogue):
            return None
        if task.key in self._exact:
            return self._seconds.get(task.key)
        similar = self._similar.get(task.shape_key)
        return similar[0] or None if similar is not None else None

    def __len__(self) -> int:
        return len(self._exact)

    def add(self, records: Records) -> None:
        """Add the best record of every task."""
        for key, record in records.best().items():
            self._exact[key] = record.choice
            if record.seconds is not None:
                self._seconds[key] = record.seconds
            # Of several tasks with one shape, the one with the longest time counts.
            shape, seconds = records.shapes.get(key), record.seconds or 0.0
            if shape is not None and seconds >= self._similar.get(shape, (0.0, None))[0]:
                self._similar[shape] = (seconds, record.choice)


def load_tuned(where: str | Path | Tuned | None, device: Target) -> Tuned:
    """The tuned choices for `device` from a folder or file `where`, from none ("none"), or the shipped ones
    (None); those that somebody has stay what they are.

    Raises RecordsError where the folder does not exist, has no records or may not be read. Records that are
    damaged, of another version or of another CPU are left out, and `notes` names them.
    """
    if isinstance(where, Tuned):
        return where
    if where is None:
        return _shipped(device)
    if str(where) == "none":
        return Tuned()
    path = Path(where)
    path = path / FILE_NAME if path.is_dir() else path
    if not path.is_file():
        raise RecordsError(
            "no tuning records there",
            received=str(where),
            valid=f"none, or a folder with {FILE_NAME}",
            next_command=f"aqd-deploy tune MODEL.onnx --records {shlex.quote(str(where))}",
        )
    content = RECORDS_FILE.read(path)
    tuned = Tuned(source=f"sha256:{hashlib.sha256(content).hexdigest()[:16]}")
    _add_fitting(tuned, parse_records(content, path.name), path.name, device)
    return tuned


def _shipped(device: Target) -> Tuned:
    """The shipped records for the device's kernels; those for other CPUs are ignored, which a note tells."""
    tuned = Tuned(source="shipped")
    folder = resources.files("aqd_deploy.targets") / "records"
    files = sorted(folder.iterdir(), key=lambda f: f.name) if folder.is_dir() else []
    for file in files:
        if file.name.endswith(f"-{device.kernels}.jsonl"):
            _add_fitting(tuned, parse_records(file.read_bytes(), file.name), file.name, device)
    return tuned


def _add_fitting(tuned: Tuned, records: Records, name: str, device: Target) -> None:
    tuned.notes += records.notes
    if records.header is None:
        return
    if unfit := records.header.unfit_for(device):
        note = f"{name}: ignored: {unfit}"
        tuned.notes.append(note)
        tuned.of_other_cpus += [note] if unfit == records.header.other_cpu(device) else []
    else:
        tuned.add(records)
