"""Named arrays in .npz files: read without running anything in them and without taking more memory than what
is asked for needs; written whole or not at all.
"""

from __future__ import annotations

import io
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from aqd_deploy.errors import AqdError, ShapeError
from aqd_deploy.files import replacing
from aqd_deploy.inputs import GIB, FileKind

NPZ_FILE = FileKind("file of arrays", "an .npz file: numpy.savez(path, image=array)", 4 * GIB)
MAX_MEMBERS = 10_000
LONGEST_HEADER = 10_000
"""numpy takes none that is longer."""
_LENGTHS = {
    (1, 0): (struct.Struct("<H"), np.lib.format.read_array_header_1_0),
    (2, 0): (struct.Struct("<I"), np.lib.format.read_array_header_2_0),
}
_SUFFIX = ".npy"
# What zipfile raises for damage, encryption and methods that it does not know.
_DAMAGED = (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, RuntimeError, zlib.error)

Wanted = Mapping[str, tuple[tuple[Any, ...], str]]
"""Shape and numpy dtype name of arrays by name; a dimension that is not a number may have any size."""


def read_arrays(path: Path, wanted: Wanted) -> dict[str, np.ndarray]:
    """The arrays `wanted` of an .npz file.

    Before one is read, the headers of all are: what is missing, unknown, or of another dtype or shape is told
    from them, so that a small file that inflates to a large one, or says that it does, costs nothing.

    Raises ShapeError where the arrays are not those that are wanted; AqdError where the file is missing,
    damaged, not an .npz or holds objects.
    """
    with NPZ_FILE.open(path) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                members = _members(archive, path)
                _check_names(members, wanted)
                for name, member in members.items():
                    with archive.open(member) as stream:
                        _check_header(stream, member, name, wanted[name], path)
                return {name: _array(archive, member, path) for name, member in members.items()}
        except _DAMAGED as error:
            raise _unreadable(path, file, error) from error


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
        raise ShapeError(f"the program has no input {unknown!r}"[:200], valid=", ".join(wanted))
    missing = next((name for name in wanted if name not in found), None)
    if missing is not None:
        raise ShapeError(f"input {missing} is missing", received=", ".join(found) or "no inputs")


def _check_header(
    stream: IO[bytes], member: zipfile.ZipInfo, name: str, wanted: tuple[tuple[Any, ...], str], path: Path
) -> None:
    shape, dtype = _header(stream, path)
    wanted_shape, wanted_dtype = wanted
    fits = len(shape) == len(wanted_shape) and all(
        not isinstance(limit, int) or size == limit for size, limit in zip(shape, wanted_shape, strict=True)
    )
    if not fits or dtype != np.dtype(wanted_dtype):
        raise ShapeError(
            f"input {name} does not fit the program",
            received=f"{dtype} {list(shape)}",
            valid=f"{wanted_dtype} {list(wanted_shape)}",
        )
    if stream.tell() + math.prod(shape) * dtype.itemsize != member.file_size:
        raise AqdError(
            f"the array {name} has not as many bytes as its header says",
            received=f"{path}: {member.file_size - stream.tell()} bytes",
            valid=f"{math.prod(shape) * dtype.itemsize} bytes",
        )


def _header(stream: IO[bytes], path: Path) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype that the header of an array claims. Raises AqdError for objects, ValueError for
    damage.
    """
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
        shape, _, dtype = read(io.BytesIO(start + text))
    except (TypeError, RecursionError, MemoryError, SyntaxError, tokenize.TokenError) as error:
        # What Python's literal parser says of a header that is not a dictionary of literals.
        raise ValueError(f"an array with a damaged header ({type(error).__name__})") from error
    if dtype.hasobject:
        raise AqdError("the arrays hold Python objects, which are not loaded because they could run anything",
                       received=str(path), valid="arrays of numbers")  # fmt: skip
    if not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError("an array with a negative size")
    return shape, dtype


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> np.ndarray:
    with archive.open(member) as stream:
        array: np.ndarray = np.lib.format.read_array(stream, allow_pickle=False)
        stream.read(1)  # at the end, where the checksum is compared
    return array


def _unreadable(path: Path, file: IO[bytes], error: Exception) -> AqdError:
    file.seek(0)
    if file.read(6) == b"\x93NUMPY":
        return AqdError("the file holds one array without a name", received=str(path), valid=NPZ_FILE.valid)
    why = " ".join(str(error).split()) or type(error).__name__
    return AqdError(f"the arrays cannot be read ({why[:200]})", received=str(path), valid=NPZ_FILE.valid)


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write named arrays as an .npz file."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
