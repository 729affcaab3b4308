"""What a shared library or executable needs of a system, read without executing anything."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

# Symbol versions stand as plain strings in the file.
_VERSIONS = re.compile(rb"\x00(GLIBC|GLIBCXX)_(\d+(?:\.\d+)+)(?=\x00)")


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
