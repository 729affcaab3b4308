"""The way to read a file that a person names, and the JSON in it.

What is not a regular file (a pipe, a device, a socket) would block a reader or never end, and what is larger
than its kind can be would fill the memory; both are found out before a byte is read. The file is opened once
and what is opened is what was checked, so a name that comes to mean something else in between does not
matter.
"""

from __future__ import annotations

import io
import json
import math
import os
import stat
from dataclasses import dataclass
from typing import IO, Any

from aqd_deploy.errors import AqdError

MIB, GIB = 1 << 20, 1 << 30
MAX_DEPTH = 64
"""Levels that a JSON document may be nested; ours have ten."""

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@dataclass(frozen=True)
class FileKind:
    """A kind of input file, for the sentences and for the error that says them.

    `name` goes with "the" ("image file"), `valid` says what would do, `limit` is the most bytes that one can
    have, `next_command` makes one.
    """

    name: str
    valid: str
    limit: int
    error: type[AqdError] = AqdError
    next_command: str | None = None

    def open(self, path: str | os.PathLike[str]) -> IO[bytes]:
        """The file at `path`, open for reading from its beginning.

        Raises `error` where it is missing, may not be read, is not a regular file or is larger than `limit`.
        """
        name = os.fspath(path)
        try:
            # Of a pipe, opening waits for a writer; of a device, it may do something.
            self._check(os.stat(name), name)
            file = _Capped(io.FileIO(os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)))
        except FileNotFoundError:
            raise self._failure(f"there is no such {self.name}", name) from None
        except (OSError, ValueError) as error:
            # ValueError: a zero byte in the name.
            why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise self._failure(f"the {self.name} cannot be read: {why}", name) from error
        try:
            self._check(os.fstat(file.fileno()), name)
        except AqdError:
            file.close()
            raise
        return file

    def read(self, path: str | os.PathLike[str]) -> bytes:
        """All bytes of the file at `path`.

        Raises what `open` does, and `error` where reading fails or the file grows meanwhile.
        """
        name = os.fspath(path)
        with self.open(path) as file:
            size = os.fstat(file.fileno()).st_size
            try:
                data = file.read(size + 1)
            except OSError as error:
                raise self._failure(f"the {self.name} cannot be read: {error.strerror}", name) from error
        if len(data) > size:
            raise self.error(
                f"the {self.name} changes while it is read", received=name, valid="a file that is complete"
            )
        return data

    def read_json(self, path: str | os.PathLike[str]) -> Any:
        """The JSON document in the file at `path`. Raises what `open` and `parse_json` do."""
        return self.parse_json(self.read(path), os.fspath(path))

    def parse_json(self, text: str | bytes, where: str) -> Any:
        """`parse_json`, its ValueError as `error`; a file without anything is told as that."""
        if not text.strip():
            raise self._failure(f"the {self.name} is empty", where)
        try:
            return parse_json(text)
        except ValueError as error:
            raise self.error(f"the {self.name} is not JSON ({error})", received=where) from error

    def _check(self, status: os.stat_result, name: str) -> None:
        for is_kind, called in _KINDS:
            if is_kind(status.st_mode):
                raise self.error(f"{called} is no {self.name}", received=name, valid=self.valid)
        if status.st_size > self.limit:
            raise self._too_large(name, status.st_size)

    def _too_large(self, name: str, size: int) -> AqdError:
        return self.error(
            f"the {self.name} is too large",
            received=f"{name}: {size} bytes",
            valid=f"{self.valid}, up to {size_text(self.limit)}",
        )

    def _failure(self, what: str, name: str) -> AqdError:
        return self.error(what, received=name, valid=self.valid, next_command=self.next_command)


class _Capped(io.BufferedReader):
    """A file that is asked for no more than there is: Python takes memory for all that a reader asks for,
    and readers ask for what a damaged header says.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > io.DEFAULT_BUFFER_SIZE:
            size = min(size, os.fstat(self.fileno()).st_size + 1)
        return super().read(size)


def size_text(size: int) -> str:
    """Bytes for people, in powers of 1024: `1.5 MB`."""
    unit, name = (GIB, "GB") if size >= GIB - 1 else (MIB, "MB")
    return f"{size / unit:.3g} {name}"


def parse_json(text: str | bytes) -> Any:
    """The JSON document in `text`.

    Raises ValueError for what is not JSON, which Python's reader admits in part: NaN and infinity, numbers
    beyond float64, half surrogates (which cannot be printed), and nesting beyond `MAX_DEPTH`, on which
    readers of the document would run out of stack.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8")
    try:
        document = json.loads(text, parse_constant=_no_number, parse_float=_finite)
    except RecursionError:
        raise ValueError(f"nested more than {MAX_DEPTH} levels deep") from None
    _check_depth(document)
    if "\\ud" in text or "\\uD" in text:
        json.dumps(document, ensure_ascii=False).encode()
    return document


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is beyond the range of numbers")
    return value


def _check_depth(document: Any) -> None:
    # The reader's own types, compared in the fastest way: a document may be ten million empty lists.
    kinds = (dict, list)
    level = [document] if type(document) in kinds else []
    for _ in range(MAX_DEPTH):
        level = [
            value
            for each in level
            for value in (each.values() if type(each) is dict else each)
            if type(value) in kinds
        ]
        if not level:
            return
    raise ValueError(f"nested more than {MAX_DEPTH} levels deep")
