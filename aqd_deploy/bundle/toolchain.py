"""The C++ compiler for a program's architecture."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aqd_deploy.errors import MissingExtraError
from aqd_deploy.targets import Target, read_cpu

_CROSS = {"aarch64": "aarch64-linux-gnu-g++", "armv7": "arm-linux-gnueabihf-g++"}
_NATIVE = ("c++", "g++", "clang++")


@dataclass(frozen=True)
class Toolchain:
    """A C++ compiler that is there: `command` are the words that begin its command lines."""

    command: tuple[str, ...]

    def compile(self, source_files: Sequence[Path], output: Path, flags: Sequence[str]) -> None:
        """Compile `source_files` into `output` (whose kind `flags` say). Raises MissingExtraError."""
        self._call([*flags, "-o", str(output), *map(str, source_files)])

    def link(self, output: str, objects: list[str], options: list[str] | None = None) -> None:
        """Link `objects` into the shared library `output`. Raises MissingExtraError."""
        self._call(["-shared", "-fPIC", "-s", "-o", output, *objects, *(options or [])])

    def _call(self, arguments: list[str]) -> None:
        command = [*self.command, *arguments]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            raise MissingExtraError(f"{self.command[0]} failed: {result.stderr.strip()[-500:]}")


def find_toolchain(target: Target) -> Toolchain:
    """The compiler for `target`. Raises MissingExtraError, naming the command that installs it."""
    names = _NATIVE if target.architecture == read_cpu().architecture else (_CROSS.get(target.architecture, ""),)
    for name in names:
        if path := shutil.which(name):
            return Toolchain((path,))
    raise MissingExtraError(
        f"no C++ compiler for {target.architecture}",
        valid=", ".join(names),
        next_command=f"apt-get install {names[-1].replace('-g++', '').join(('g++-', '')) if names[0] else 'g++'}",
    )
