"""What a shared library or executable says of itself, read without executing anything."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

_MACHINES = {62: "x86_64", 183: "aarch64", 40: "armv7"}
# Symbol versions stand as plain strings in the file.
_VERSIONS = re.compile(rb"\x00(GLIBC|GLIBCXX)_(\d+(?:\.\d+)+)(?=\x00)")


def elf_architecture(data: bytes) -> str:
    """`x86_64`, `aarch64` or `armv7`; "no ELF file" or the machine's number for anything else."""
    if not data.startswith(b"\x7fELF") or len(data) < 20:
        return "no ELF file"
    machine = int.from_bytes(data[18:20], "little" if data[5] == 1 else "big")
    return _MACHINES.get(machine, f"ELF machine {machine}")


def required_versions(files: Iterable[Path]) -> dict[str, str]:
    """The highest version of the C library (`GLIBC`) and of the C++ library (`GLIBCXX`) that `files` name.

    Libraries that provide versions themselves must not be among them.
    """
    highest: dict[str, tuple[int, ...]] = {}
    for path in files:
        for library, version in _VERSIONS.findall(path.read_bytes()):
            numbers = tuple(int(part) for part in version.split(b"."))
            highest[library.decode()] = max(highest.get(library.decode(), (0,)), numbers)
    return {library: ".".join(map(str, numbers)) for library, numbers in sorted(highest.items())}
