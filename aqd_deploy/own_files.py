"""Whose files an output folder has: a verb that derives names from its inputs replaces what it wrote itself
in an earlier run, and no file of anybody else.

Every file that a verb puts there is written down first, in `.written-by-aqd-deploy` of the folder, a line
each: verb, name, size and time. Who changes the file, or puts another in its place, makes it his. The list
is locked while a verb writes.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
from collections.abc import Iterable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO
from urllib.parse import quote, unquote_to_bytes

from aqd_deploy.errors import AqdError
from aqd_deploy.files import TemporaryFolder, check_folder, naming
from aqd_deploy.inputs import MIB, FileKind, parse_json
from aqd_deploy.schema import SchemaError, table, text, whole

LIST = ".written-by-aqd-deploy"
_FILE = FileKind("list of files", f"a {LIST}", 256 * MIB)
_LINE = table({"verb": text, "name": text, "size": whole(), "mtime_ns": whole(-(1 << 62))})
# Size and time in nanoseconds.
_Mark = tuple[int, int]


class OwnFiles:
    """The files of `verb` in `folder`, which is made where it is missing. Use it with `with`.

    Raises AqdError where `folder` is a file or cannot be made, another process writes to it, or one of
    `names`, which may be written, is one of `inputs` or is there and of somebody else; OSError where writing
    fails. A folder that nothing came into goes again.
    """

    def __init__(self, folder: Path, verb: str, names: Iterable[str], inputs: Iterable[Path]) -> None:
        self.folder = folder
        self._verb, self._names, self._inputs = verb, set(names), list(inputs)
        self._marks: dict[tuple[str, str], set[_Mark]] = {}
        self._list: IO[bytes] | None = None
        self._temporary: TemporaryFolder | None = None

    @property
    def staging(self) -> Path:
        """Where files are made, on the file system of the folder."""
        assert self._temporary is not None, "used with `with`"
        return self._temporary.path

    def writing(self) -> AbstractContextManager[None]:
        """A block that writes into `staging`: an OSError in it names the folder."""
        assert self._temporary is not None, "used with `with`"
        return self._temporary.writing()

    def __enter__(self) -> OwnFiles:
        if os.path.lexists(self.folder) and not self.folder.is_dir():
            raise AqdError("the output is a file", received=str(self.folder), valid="the name of a folder")
        check_folder(self.folder)
        self._temporary = TemporaryFolder(self.folder)
        try:
            self._lock()
            self._marks = _read(self.folder)
            self._check()
            self._write_anew()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def earlier(self) -> list[str]:
        """The names of those files that an earlier run of this verb left, and that are as it left them."""
        own = [name for verb, name in self._marks if verb == self._verb]
        return [name for name in own if self._is_own(name)]

    def remove(self, names: Iterable[str]) -> None:
        """Remove those of `names` that are still this verb's."""
        for name in names:
            if self._is_own(name):
                (self.folder / name).unlink()

    def publish(self, staged: Path, name: str) -> None:
        """Move a finished file to its name, whose own file it replaces.

        Raises AqdError where somebody else has put one there.
        """
        target = self.folder / name
        if os.path.lexists(target) and not self._is_own(name):
            raise self._not_ours(target)
        self._write_down(name, staged)
        if os.path.lexists(target):
            staged.replace(target)
            return
        try:
            # Unlike a rename, never over a file that appears just now.
            os.link(staged, target)
        except FileExistsError:
            raise self._not_ours(target) from None
        except OSError:
            staged.rename(target)
        else:
            staged.unlink()

    def _check(self) -> None:
        taken = {_identity(path) for path in self._inputs if path.exists()}
        for name in sorted({*self._names, *self.earlier()}):
            path = self.folder / name
            if path.exists() and _identity(path) in taken:
                raise AqdError("the output is also an input", received=str(path), valid="another folder")
            if os.path.lexists(path) and not self._is_own(name):
                raise self._not_ours(path)

    def _not_ours(self, path: Path) -> AqdError:
        return AqdError(
            f"the output folder has a file that is not known to be written by {self._verb}",
            received=str(path), valid="another folder, or that file elsewhere",
        )  # fmt: skip

    def _is_own(self, name: str) -> bool:
        """Whether the file is there as this verb left it."""
        mark = _mark(self.folder / name) if Path(name).name == name else None
        return mark is not None and mark in self._marks.get((self._verb, name), ())

    def _lock(self) -> None:
        while True:
            file = self._open_list()
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                raise AqdError(
                    "another process writes to the output folder", received=str(self.folder),
                    valid="another folder, or the same one when that process has ended",
                ) from None  # fmt: skip
            except OSError:
                # A file system without locks.
                pass
            self._list = file
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), os.stat(self.folder / LIST)):
                    return
            # Another process has replaced or removed it in between.
            file.close()

    def _open_list(self) -> IO[bytes]:
        """Not a link, which may lead elsewhere, nor a pipe, which would wait for a reader."""
        path, flags = self.folder / LIST, os.O_WRONLY | os.O_APPEND | os.O_CREAT
        try:
            descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
                raise
            raise self._not_ours(path) from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise self._not_ours(path)
        return os.fdopen(descriptor, "ab")

    def _write_anew(self) -> None:
        """The list with what is still true, so that it does not grow from run to run."""
        before, path = self._list, self.staging / LIST
        with self.writing():
            self._list = path.open("ab")
        with suppress(OSError):
            fcntl.flock(self._list, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for (verb, name), marks in self._marks.items():
            for mark in marks & {_mark(self.folder / name)}:
                assert mark is not None
                self._append(verb, name, mark)
        path.replace(self.folder / LIST)
        assert before is not None
        before.close()

    def _write_down(self, name: str, staged: Path) -> None:
        mark = _mark(staged)
        if mark is None:
            raise AqdError("the output folder went while it was written to", received=str(self.folder))
        self._marks.setdefault((self._verb, name), set()).add(mark)
        self._append(self._verb, name, mark)

    def _append(self, verb: str, name: str, mark: _Mark) -> None:
        assert self._list is not None
        # A name may have bytes that are no characters, which JSON has not.
        line = {"verb": verb, "name": quote(os.fsencode(name)), "size": mark[0], "mtime_ns": mark[1]}
        with naming(self.folder):
            self._list.write(json.dumps(line).encode() + b"\n")
            self._list.flush()

    def _close(self) -> None:
        if self._list is not None:
            # Before others can have it: a list of nothing goes.
            with suppress(OSError):
                if not (self.folder / LIST).stat().st_size:
                    (self.folder / LIST).unlink()
            self._list.close()
        if self._temporary is not None:
            self._temporary.close()


def written_in(folder: Path) -> set[str]:
    """The names of files in `folder` that are there as one of our verbs wrote them."""
    return {name for (_, name), marks in _read(folder).items() if _mark(folder / name) in marks}


def _read(folder: Path) -> dict[tuple[str, str], set[_Mark]]:
    """What is written down of each verb and name; a damaged line tells nothing."""
    found: dict[tuple[str, str], set[_Mark]] = {}
    try:
        lines = _FILE.read(folder / LIST).splitlines()
    except AqdError:
        return found
    for line in lines:
        try:
            entry = parse_json(line)
            _LINE(entry, "")
        except (ValueError, SchemaError):
            continue
        name = os.fsdecode(unquote_to_bytes(entry["name"]))
        if Path(name).name == name:
            marks = found.setdefault((entry["verb"], name), set())
            marks.add((entry["size"], entry["mtime_ns"]))
    return found


def _mark(path: Path) -> _Mark | None:
    """Size and time of a regular file, None for anything else."""
    try:
        status = path.lstat()
    except (OSError, ValueError):
        return None
    return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
