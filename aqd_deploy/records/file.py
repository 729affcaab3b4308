"""What was measured, line by line in `records.jsonl`: a header, definitions of tasks, candidates.

Every line is one JSON object. The header says for what the numbers hold: the format, the version of the
kernels (`kernels.KERNEL_VERSION`), TVM's version, the instruction set and the CPU. A line is appended and
synchronised to disk as a whole before the next measurement begins, so a process that is killed loses at most
the measurement it was at; the torn line it may leave is dropped. Reading raises nothing for damage: every
problem becomes one line of text and what it concerns is left out.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from aqd_deploy.errors import RecordsError
from aqd_deploy.files import naming
from aqd_deploy.inputs import GIB, FileKind, parse_json
from aqd_deploy.kernels import KERNEL_VERSION
from aqd_deploy.kernels.contract.choice import Choice
from aqd_deploy.runtime.backend import tvm_version
from aqd_deploy.schema import SchemaError, list_of, nothing_or, number, one_of, table, table_of, text, whole
from aqd_deploy.targets import DEFAULT_BACKEND, Target
from aqd_deploy.targets.cpu import cpu_kind, read_cpu

RECORDS_FORMAT = 1
FILE_NAME = "records.jsonl"
ACCEPTED, SLOWER, REJECTED = "accepted", "slower", "rejected"
RECORDS_FILE = FileKind("file of records", f"a {FILE_NAME} written by tune", GIB // 4, RecordsError)
_HEADER = table({
    "kernels": whole(), "tvm": text, "isa": text, "profile": text, "cpu": text, "model": text,
    "features": list_of(text),
}, {"backend": text})  # fmt: skip
_SHAPE = table({"task": text, "shape": text})
_SECONDS = nothing_or(number(above=0))


def _is_choice(value: Any, place: str) -> None:
    table({"family": text})(value, place)
    table_of(whole(-(1 << 31), 1 << 31))({k: v for k, v in value.items() if k != "family"}, place)


_RECORD = table({
    "task": text, "choice": _is_choice, "state": one_of(ACCEPTED, SLOWER, REJECTED), "seconds": _SECONDS,
    "best_seconds": _SECONDS, "reason": text,
})  # fmt: skip


@dataclass(frozen=True)
class Header:
    """For what a file's numbers hold.

    `kernels` and `tvm` are versions, `isa` is what the target's kernels are written for, `profile` its file
    name, `cpu` a `cpu_kind`, or the architecture of a card, `model` its name for people, `features` the
    target's, and `backend` whose kernels they are: a file names it where it is not that of CPUs.
    """

    kernels: int
    tvm: str
    isa: str
    profile: str
    cpu: str
    model: str
    features: tuple[str, ...]
    backend: str = DEFAULT_BACKEND

    @classmethod
    def here(cls, device: Target) -> Header:
        """The header of what is measured for `device` on this machine."""
        return cls(
            kernels=KERNEL_VERSION,
            tvm=tvm_version(),
            isa=device.kernels,
            profile=device.profile,
            cpu=_device_kind(device),
            model=device.card or read_cpu().model,
            features=tuple(device.features),
            backend=device.backend,
        )

    @classmethod
    def from_json(cls, value: Any) -> Header:
        """The inverse of `to_json`. Raises ValueError for another format or no header at all."""
        if not isinstance(value, dict) or "aqd_tuning_records" not in value:
            raise ValueError("it does not begin with a header")
        if value["aqd_tuning_records"] != RECORDS_FORMAT:
            raise ValueError(f"its format is {value['aqd_tuning_records']}, not {RECORDS_FORMAT}")
        try:
            _HEADER(value, "")
        except SchemaError as error:
            raise ValueError(f"its header is incomplete ({error})") from error
        fields = {name: value[name] for name in cls.__dataclass_fields__ if name in value}
        return cls(**{**fields, "features": tuple(value["features"])})

    def to_json(self) -> dict[str, Any]:
        """One JSON object, the first line of a file."""
        fields = {**self.__dict__, "features": list(self.features)}
        if self.backend == DEFAULT_BACKEND:
            del fields["backend"]
        return {"aqd_tuning_records": RECORDS_FORMAT, **fields}

    def unfit_for(self, device: Target) -> str:
        """Why the numbers do not hold for `device`, "" where they do."""
        here = Header.here(device)
        if self.kernels != here.kernels:
            return f"of kernels version {self.kernels}, not {here.kernels}"
        if self.tvm != here.tvm:
            return f"of TVM {self.tvm}, not {here.tvm}"
        if self.backend != here.backend:
            return f"of the backend {self.backend}, not {here.backend}"
        if self.isa != here.isa:
            return f"of {self.isa} kernels, not {here.isa}"
        return self.other_cpu(device)

    def other_cpu(self, device: Target) -> str:
        """Of which other CPU the numbers are, "" where they hold for that of `device`: those of another CPU
        serve a target that is named, not one that stands for this machine.
        """
        here, named = _device_kind(device), device.name == device.profile == self.profile
        if self.cpu == here or named:
            return ""
        return f"of another CPU, {self.model} ({self.cpu}), not {here}"


def _device_kind(device: Target) -> str:
    """What tells machines apart on which one set of kernels has other times. Cards of one architecture are
    not told apart: where they differ, which is not measured, records choose a kernel that is slower.
    """
    return device.card or cpu_kind()


@dataclass(frozen=True)
class Record:
    """One measured candidate.

    `state`: accepted (better than all before it, exact, re-measured), slower, or rejected (with the reason).
    `seconds` of one call, and `best_seconds` of the best one measured in turn with it; None where rejected.
    """

    task: str
    choice: Choice
    state: str
    seconds: float | None = None
    best_seconds: float | None = None
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """One line of the file."""
        return {
            "task": self.task,
            "choice": self.choice.to_json(),
            "state": self.state,
            "seconds": self.seconds,
            "best_seconds": self.best_seconds,
            "reason": self.reason,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Record:
        """The inverse of `to_json`. Raises ValueError for anything else."""
        _RECORD(value, "")
        if value["state"] == ACCEPTED and value["seconds"] is None:
            raise ValueError("an accepted record without its time")
        choice = Choice.from_json(value["choice"])
        seconds, best = value["seconds"], value["best_seconds"]
        return cls(value["task"], choice, value["state"], seconds, best, value["reason"])


@dataclass
class Records:
    """What a file holds: `shapes` are the shape keys of tasks by their keys, `notes` what was left out."""

    header: Header | None = None
    shapes: dict[str, str] = field(default_factory=dict)
    candidates: list[Record] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def best(self) -> dict[str, Record]:
        """The best record of every task: the last accepted one, each having beaten the one before."""
        return {record.task: record for record in self.candidates if record.state == ACCEPTED}


def records_for(folder: Path, device: Target) -> Records:
    """The records of a folder that hold for `device`; of others there is a note, of none nothing."""
    path = folder / FILE_NAME
    if not path.exists():
        return Records()
    found = read_records(path)
    unfit = found.header.unfit_for(device) if found.header else ""
    return Records(notes=[*found.notes, f"{path}: ignored: {unfit}"]) if unfit else found


def read_records(path: Path) -> Records:
    """Read a file, whatever is in it; an unreadable header leaves nothing but a note."""
    try:
        return parse_records(RECORDS_FILE.read(path), str(path))
    except RecordsError as error:
        return Records(notes=[f"{path}: ignored: {error.what}"])


def parse_records(content: bytes, path: str) -> Records:
    """What a file's bytes say; `path` is what notes call it."""
    result = Records()
    # Line by line: a list of all would take forty times an empty one.
    lines = io.BytesIO(content)
    try:
        header = parse_json(lines.readline())
    except ValueError:
        result.notes.append(f"{path}: ignored: its first line is damaged")
        return result
    try:
        result.header = Header.from_json(header)
    except ValueError as error:
        result.notes.append(f"{path}: ignored: {error}")
        return result
    count, first = 0, list[str]()
    for place, line in enumerate(lines, 2):
        if not line.endswith(b"\n"):
            result.notes.append(f"{path}: line {place} is torn and ignored")
        elif not _read_line(line, result):
            count += 1
            first += [str(place)] if count <= 5 else []
    if count:
        named = ", ".join(first) + (", ..." if count > 5 else "")
        result.notes.append(f"{path}: {count} damaged lines ignored: {named}")
    return result


def _read_line(line: bytes, result: Records) -> bool:
    """Add what the line says to `result`; whether it could be read."""
    try:
        value = parse_json(line)
        if isinstance(value, dict) and "shape" in value:
            _SHAPE(value, "")
            result.shapes[value["task"]] = value["shape"]
        else:
            result.candidates.append(Record.from_json(value))
    except ValueError:
        return False
    return True


class RecordsFile:
    """A folder's records, open for appending by one process at a time. Close it, or use it with `with`.

    Records that hold for something else than `header` are set aside under another name.
    Raises RecordsError where another process has them open, and OSError.
    """

    def __init__(self, folder: Path, header: Header, device: Target) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / FILE_NAME
        self._lock = _locked(folder / ".lock")
        self.records = self._open(header, device)
        self._file: IO[bytes] = self.path.open("ab")
        if self.records.header is None:
            self.records.header = header
            self._append(header.to_json())

    def _open(self, header: Header, device: Target) -> Records:
        if not self.path.exists():
            return Records()
        found = read_records(self.path)
        unfit = "unreadable" if found.header is None else found.header.unfit_for(device)
        if not unfit:
            _drop_torn_line(self.path)
            return found
        aside = next(p for n in range(1, 10**6) if not (p := self.path.with_suffix(f".{n}.jsonl")).exists())
        self.path.rename(aside)
        return Records(notes=[*found.notes, f"{self.path}: {unfit}; set aside as {aside.name}"])

    def define(self, key: str, shape: str, definition: dict[str, Any]) -> None:
        """Write what a task is, once: its shape key, and its definition for people."""
        if key not in self.records.shapes:
            self.records.shapes[key] = shape
            self._append({"task": key, "shape": shape, "definition": definition})

    def add(self, record: Record) -> None:
        """Write a record and wait until it is on the disk."""
        self.records.candidates.append(record)
        self._append(record.to_json())

    def _append(self, value: dict[str, Any]) -> None:
        with naming(self.path):
            self._file.write(json.dumps(value, separators=(",", ":")).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file and let other processes have it."""
        with naming(self.path):
            # Writes what could not be written before, once more.
            self._file.close()
        self._lock.close()

    def __enter__(self) -> RecordsFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _locked(path: Path) -> IO[bytes]:
    """An open file that no other process has locked; the lock ends with the process."""
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise RecordsError(
            "another process tunes with these records",
            received=str(path.parent),
            valid="another folder, or the same one when that process has ended",
        ) from error
    return file


def _drop_torn_line(path: Path) -> None:
    """Cut what a killed process left behind the last newline."""
    with path.open("rb+") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)


def shipped_lines(header: Header, shapes: dict[str, str], best: dict[str, Record]) -> Iterator[str]:
    """The lines of a file that ships: one accepted record a task, and its shape."""
    values: list[dict[str, Any]] = [header.to_json()]
    for key in sorted(best):
        if key in shapes:
            values.append({"task": key, "shape": shapes[key]})
        values.append(best[key].to_json())
    return (json.dumps(value, separators=(",", ":")) for value in values)
