"""The program file: a shared library with its manifest behind it, readable without executing anything.

    offset 0        the ELF shared library, `elf_size` bytes
    elf_size        the manifest, UTF-8 JSON as a zlib stream (RFC 1950), `manifest_size` bytes
    end − 96        the footer: magic (8), format version (u32), zero (u32), elf_size, manifest_size (u64),
                    SHA-256 of the library (32), SHA-256 of the zlib stream (32); integers little-endian

The dynamic linker ignores bytes behind the sections, so the file is loaded as it is. A reader checks, in
this order: the magic, the format version, the sizes, both hashes. Only then is anything in the file
trusted.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aqd_deploy import files
from aqd_deploy.errors import ProgramError
from aqd_deploy.inputs import GIB, FileKind
from aqd_deploy.runtime.manifest import unpack_manifest

FORMAT_VERSION = 2
_MAGIC = b"AQDPROG\x00"
_FOOTER = struct.Struct("<8sIIQQ32s32s")
_RECOMPILE = "aqd-deploy compile MODEL.onnx -o PROGRAM.so"
PROGRAM_FILE = FileKind("program", "a .so file written by compile", 4 * GIB, ProgramError, _RECOMPILE)


@dataclass(frozen=True)
class Container:
    """A verified program file: its path, its manifest, its bytes, and how many of them are the library."""

    path: Path
    manifest: dict[str, Any]
    data: bytes = field(repr=False)
    library_bytes: int

    @property
    def library(self) -> memoryview:
        """The bytes of the shared library."""
        return memoryview(self.data)[: self.library_bytes]

    @property
    def file_bytes(self) -> int:
        """The size of the whole file."""
        return len(self.data)

    @functools.cached_property
    def sha256(self) -> str:
        """The SHA-256 of the whole file, in hexadecimal."""
        return hashlib.sha256(self.data).hexdigest()


def append_manifest(library: Path, manifest: dict[str, Any]) -> None:
    """Append `manifest` and the footer to the shared library at `library`."""
    text = json.dumps(manifest, ensure_ascii=False, separators=(",", ":")).encode()
    packed = zlib.compress(text, level=9)
    body = library.read_bytes()
    footer = _FOOTER.pack(
        _MAGIC,
        FORMAT_VERSION,
        0,
        len(body),
        len(packed),
        hashlib.sha256(body).digest(),
        hashlib.sha256(packed).digest(),
    )
    with library.open("ab") as file:
        file.write(packed + footer)


def read_container(path: str | os.PathLike[str]) -> Container:
    """Read and verify the program file at `path`.

    Raises ProgramError where the file is missing or not a regular file, is not one of our programs, is of
    another format version, is truncated or damaged, or has a manifest without what every program says of
    itself.
    """
    path = Path(path)
    data = PROGRAM_FILE.read(path)
    if len(data) < _FOOTER.size or not data.startswith(b"\x7fELF"):
        raise ProgramError(
            f"{path} is not a compiled program",
            received=_describe(data),
            valid="a .so file written by compile",
            next_command=_RECOMPILE,
        )
    magic, version, _, elf_size, manifest_size, elf_hash, manifest_hash = _FOOTER.unpack(
        data[-_FOOTER.size :]
    )
    if magic != _MAGIC:
        raise ProgramError(
            f"{path} is not one of our programs, or it is truncated: it does not end with our footer",
            received=f"{len(data)} bytes of a shared library",
            valid="a .so file written by compile, whole",
            next_command=_RECOMPILE,
        )
    if version != FORMAT_VERSION:
        raise ProgramError(
            f"{path} is a program of another version",
            received=f"format {version}",
            valid=f"format {FORMAT_VERSION}",
            next_command=_RECOMPILE,
        )
    if elf_size + manifest_size + _FOOTER.size != len(data):
        raise _damaged(path, f"{len(data)} bytes instead of {elf_size + manifest_size + _FOOTER.size}")
    packed = data[elf_size : elf_size + manifest_size]
    if hashlib.sha256(memoryview(data)[:elf_size]).digest() != elf_hash:
        raise _damaged(path, "a library whose SHA-256 differs from the recorded one")
    if hashlib.sha256(packed).digest() != manifest_hash:
        raise _damaged(path, "a manifest whose SHA-256 differs from the recorded one")
    return Container(path, unpack_manifest(packed, str(path)), data, elf_size)


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The verified manifest of the program at `path`, read without loading code. Raises ProgramError."""
    return read_container(path).manifest


def check_output(path: Path) -> None:
    """Raise ProgramError where `path` does not end in .so, or its folder cannot be made or written."""
    if path.suffix != ".so":
        raise ProgramError(
            "a program's name must end in .so", received=path, valid=path.with_suffix(".so").name
        )
    files.check_output(path, error=ProgramError)


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write` with a temporary path in the folder of `path`, then rename it to `path`.

    A killed or failing `write` leaves the old file. Raises ProgramError where the folder cannot be written
    or is full.
    """
    check_output(path)
    try:
        with files.replacing(path) as temporary:
            write(temporary)
    except OSError as error:
        raise files.failure(f"cannot write {path}", error, ProgramError) from error


def _describe(data: bytes) -> str:
    return f"{len(data)} bytes beginning with {data[:4]!r}"


def _damaged(path: Path, received: str) -> ProgramError:
    return ProgramError(f"{path} is truncated or damaged", received=received, next_command=_RECOMPILE)
