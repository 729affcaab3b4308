"""Named arrays in .npz files, and one in a .npy file: read without running anything in them and without
taking more memory than what is asked for needs; written whole or not at all.
"""

from __future__ import annotations

import io
import math
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from aqd_deploy.errors import AqdError, ShapeError
from aqd_deploy.files import replacing
from aqd_deploy.inputs import GIB, FileKind

NPZ_FILE = FileKind(
    "file of arrays", "an .npz file: numpy.savez(path, image=array); .npy where there is one input", 4 * GIB
)
MAX_MEMBERS = 10_000
LONGEST_HEADER = 10_000
"""numpy takes none that is longer."""
_LENGTHS = {
    (1, 0): (struct.Struct("<H"), np.lib.format.read_array_header_1_0),
    (2, 0): (struct.Struct("<I"), np.lib.format.read_array_header_2_0),
}
_SUFFIX = ".npy"
ZIP_ERRORS = (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, zlib.error)
"""What zipfile raises for damage, encryption and methods that it does not know."""
_DAMAGED = (*ZIP_ERRORS, OSError, ValueError)

Wanted = Mapping[str, tuple[tuple[Any, ...], tuple[str, ...]]]
"""Shape of arrays by name, and the names of the numpy dtypes that they may have; a dimension that is not a
number may have any size.
"""


def read_arrays(path: Path, wanted: Wanted) -> dict[str, np.ndarray]:
    """The arrays `wanted` of an .npz file, or of a .npy file where it is one.

    Before one is read, the headers of all are: what is missing, unknown, or of another dtype or shape is told
    from them, so that a small file that inflates to a large one, or says that it does, costs nothing.

    Raises ShapeError where the arrays are not those that are wanted; AqdError where the file is missing,
    damaged, neither an .npz nor a .npy, or holds objects.
    """
    with NPZ_FILE.open(path) as file:
        try:
            if _is_single(file):
                return _single(file, path, wanted)
            with zipfile.ZipFile(file) as archive:
                members = _members(archive, path)
                _check_names(members, wanted)
                for name, member in members.items():
                    with archive.open(member) as stream:
                        _check_header(stream, member.file_size, name, wanted[name], path)
                return {name: _array(archive, member, path) for name, member in members.items()}
        except _DAMAGED as error:
            raise _unreadable(path, error) from error


def _is_single(file: IO[bytes]) -> bool:
    start = file.read(len(np.lib.format.MAGIC_PREFIX))
    file.seek(0)
    return start == np.lib.format.MAGIC_PREFIX


def _single(file: IO[bytes], path: Path, wanted: Wanted) -> dict[str, np.ndarray]:
    """The array of a .npy file, by the name of the only input."""
    name = _only_name(path, wanted)
    fits = wanted[name]
    _check_header(file, os.fstat(file.fileno()).st_size, name, fits, path)
    file.seek(0)
    return {name: np.lib.format.read_array(file, allow_pickle=False)}


def _only_name(path: Path, wanted: Wanted) -> str:
    if len(wanted) != 1:
        raise ShapeError(
            "the file holds one array without a name, and there are several inputs",
            received=str(path),
            valid=f"an .npz file with {', '.join(wanted)}",
        )
    return next(iter(wanted))


def _members(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    entries = archive.infolist()
    if any(entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for entry in entries):
        # The others reserve what the file tells them to; numpy writes neither.
        raise ValueError("compressed in another way than numpy's")
    members = {entry.filename.removesuffix(_SUFFIX): entry for entry in entries[:MAX_MEMBERS]}
    if len(members) != len(entries):
        raise AqdError(
            "the file has two arrays of one name, or too many",
            received=f"{path}: {len(entries)} arrays",
            valid=f"different names, at most {MAX_MEMBERS}",
        )
    return members


def _check_names(found: Mapping[str, object], wanted: Wanted) -> None:
    unknown = next((name for name in found if name not in wanted), None)
    if unknown is not None:
        raise ShapeError(f"there is no input {unknown!r}"[:200], valid=", ".join(wanted))
    missing = next((name for name in wanted if name not in found), None)
    if missing is not None:
        raise ShapeError(f"input {missing} is missing", received=", ".join(found) or "no inputs")


def _check_header(
    stream: IO[bytes], size: int, name: str, wanted: tuple[tuple[Any, ...], tuple[str, ...]], path: Path
) -> _Header:
    """What the header in `stream`, of `size` bytes in all, says of the array."""
    header = _header(stream, path)
    shape, dtype = header.shape, header.dtype
    wanted_shape, dtypes = wanted
    fits = len(shape) == len(wanted_shape) and all(
        not isinstance(limit, int) or side == limit for side, limit in zip(shape, wanted_shape, strict=True)
    )
    if not fits or dtype not in map(np.dtype, dtypes):
        raise ShapeError(
            f"the array {name} does not fit the input",
            received=f"{dtype} {list(shape)}",
            valid=f"{' or '.join(dtypes)} {list(wanted_shape)}",
        )
    if stream.tell() + math.prod(shape) * dtype.itemsize != size:
        raise AqdError(
            f"the array {name} has not as many bytes as its header says",
            received=f"{path}: {size - stream.tell()} bytes",
            valid=f"{math.prod(shape) * dtype.itemsize} bytes",
        )
    return header


@dataclass(frozen=True)
class _Header:
    """What an array says of itself; `by_columns`: its first index runs fastest."""

    shape: tuple[int, ...]
    dtype: np.dtype
    by_columns: bool


def _header(stream: IO[bytes], path: Path) -> _Header:
    """What the header of an array claims. Raises AqdError for objects, ValueError for damage."""
    version = np.lib.format.read_magic(stream)
    if version not in _LENGTHS:
        raise ValueError(f"an array of format {version[0]}.{version[1]}")
    length, read = _LENGTHS[version]
    start = stream.read(length.size)
    # numpy reads as many bytes as this says before it looks at the number.
    if len(start) < length.size or length.unpack(start)[0] > LONGEST_HEADER:
        raise ValueError(f"an array with a header of more than {LONGEST_HEADER} bytes")
    text = stream.read(length.unpack(start)[0])
    try:
        shape, by_columns, dtype = read(io.BytesIO(start + text))
    except (TypeError, RecursionError, MemoryError, SyntaxError, tokenize.TokenError) as error:
        # What Python's literal parser says of a header that is not a dictionary of literals.
        raise ValueError(f"an array with a damaged header ({type(error).__name__})") from error
    if dtype.hasobject:
        raise AqdError("the arrays hold Python objects, which are not loaded because they could run anything",
                       received=str(path), valid="arrays of numbers")  # fmt: skip
    if not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError("an array with a negative size")
    return _Header(shape, dtype, by_columns)


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> np.ndarray:
    with archive.open(member) as stream:
        array: np.ndarray = np.lib.format.read_array(stream, allow_pickle=False)
        stream.read(1)  # at the end, where the checksum is compared
    return array


def _unreadable(path: Path, error: Exception) -> AqdError:
    why = " ".join(str(error).split()) or type(error).__name__
    return AqdError(f"the arrays cannot be read ({why[:200]})", received=str(path), valid=NPZ_FILE.valid)


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write named arrays as an .npz file."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


class Rows:
    """The arrays `wanted` of an .npz file, or of a .npy file where it is one, for reading a row at a time:
    their first axis may have any length, `count`, the same for all. An .npz file that holds one array may
    call it as it likes, where one is wanted.

    Raises what `read_arrays` does.
    """

    def __init__(self, path: Path, wanted: Wanted) -> None:
        self.path = path
        self._wanted = {name: ((None, *shape), dtypes) for name, (shape, dtypes) in wanted.items()}
        with self._streams() as streams:
            counts = {name: header.shape[0] for name, (_, header) in streams.items()}
        self.count = min(counts.values())
        if len(set(counts.values())) > 1:
            raise ShapeError(
                "the arrays have different numbers of images",
                received=", ".join(f"{name} {count}" for name, count in counts.items()),
                valid="as many of each",
            )

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        """Rows [1, …] of all arrays."""
        with self._streams() as streams:
            for _ in range(self.count):
                yield {name: _row(stream, header) for name, (stream, header) in streams.items()}

    @contextmanager
    def _streams(self) -> Iterator[dict[str, tuple[IO[bytes], _Header]]]:
        """Of each array its bytes behind the header."""
        with NPZ_FILE.open(self.path) as file, ExitStack() as stack:
            try:
                if _is_single(file):
                    sizes = {_only_name(self.path, self._wanted): os.fstat(file.fileno()).st_size}
                    opened: dict[str, IO[bytes]] = dict.fromkeys(sizes, file)
                else:
                    archive = stack.enter_context(zipfile.ZipFile(file))
                    members = _members(archive, self.path)
                    if len(members) == len(self._wanted) == 1:
                        members = dict(zip(self._wanted, members.values(), strict=True))
                    _check_names(members, self._wanted)
                    sizes = {name: member.file_size for name, member in members.items()}
                    opened = {name: stack.enter_context(archive.open(m)) for name, m in members.items()}
                headers = {
                    name: _check_header(stream, sizes[name], name, self._wanted[name], self.path)
                    for name, stream in opened.items()
                }
                yield {name: (stream, headers[name]) for name, stream in opened.items()}
            except _DAMAGED as error:
                raise _unreadable(self.path, error) from error


def _row(stream: IO[bytes], header: _Header) -> np.ndarray:
    if header.by_columns:
        raise ValueError("an array that is stored column by column: numpy.ascontiguousarray makes another")
    shape = header.shape[1:]
    size = math.prod(shape) * header.dtype.itemsize
    data = stream.read(size)
    if len(data) != size:
        raise ValueError("an array that ends early")
    return np.frombuffer(data, header.dtype).reshape(1, *shape)
