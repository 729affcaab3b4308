"""The compilers of a target: found, not assumed, and never the host's for a foreign device.

A compiler for C or C++ links a program; what goes beside that into a bundle is C++. `find_toolchain` looks,
in this order, for the profile's own `toolchain`; for what CXX and CC name, where that is for the target; for
this machine's own architecture for the compilers under their short names; for those under the names that
distributions, conda and Arm give to compilers for an architecture (`aarch64-linux-gnu-g++`); and for
`zig c++` of the package `ziglang`. What was made is looked at: a file for another machine than the target's
is an error.

A profile's `toolchain` is a command out of a file that somebody may have been given: `locate_toolchain`
finds it without running it, for whoever only wants to look.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aqd_deploy import processes
from aqd_deploy.errors import MissingExtraError, TargetError, ToolchainError
from aqd_deploy.files import told_failure
from aqd_deploy.targets import Target, architectures, read_cpu
from aqd_deploy.targets.architectures import architecture_of

CPLUSPLUS, C = ("c++", "g++", "clang++"), ("cc", "gcc", "clang")
NATIVE = (*CPLUSPLUS, *C)
_VARIABLES = ("CXX", "CC")
# The C library that TVM's own runtime wheels are built against.
_ZIG_GLIBC = "2.28"
_SHOWN_STDERR = 500


@dataclass(frozen=True)
class Toolchain:
    """A compiler and linker for `architecture`: its command line, and where it was found (`profile`, `CXX`,
    `CC`, `native`, `cross` or `zig`). `link_command` links where that is another than `command`; `cplusplus`
    says whether it compiles C++ as far as its name tells.
    """

    command: tuple[str, ...]
    origin: str
    architecture: str
    link_command: tuple[str, ...] = ()
    cplusplus: bool = True

    def __str__(self) -> str:
        return shlex.join(self.command)

    def instead(self) -> str | None:
        """What leads to another compiler, where a variable or a profile names this one."""
        return {
            "CXX": "the same command without CXX in the environment",
            "CC": "the same command without CC in the environment",
            "profile": "another command under the key toolchain of the profile",
        }.get(self.origin)

    def link(
        self,
        output: str | Path,
        objects: Sequence[str | Path],
        options: Sequence[str] | None = None,
        **_: Any,
    ) -> None:
        """Link `objects` into the shared library `output`, without symbols (TVM's `fcompile`).

        Raises ToolchainError where the compiler fails, OSError where it cannot write the folder of `output`,
        TargetError where it made a library of another machine.
        """
        # -s: TVM's debug information is an eighth of the code, and nothing reads it. Without -O2 zig adds its
        # checks for undefined behaviour, which need much more of the C library.
        flags = ["-shared", "-fPIC", "-O2", "-s", "-o", str(output)]
        _run(
            [*(self.link_command or self.command), *flags, *map(str, objects), *(options or [])],
            Path(output).parent,
            self.instead(),
        )
        check_machine(Path(output), self.architecture)

    def compile(
        self, source_files: Sequence[str | Path], output: str | Path, flags: Sequence[str] = ()
    ) -> None:
        """Compile C++ `source_files` into the executable (or what `flags` say) `output`.

        Raises ToolchainError where the compiler fails, OSError where it cannot write the folder of `output`,
        TargetError where it made a file of another machine.
        """
        command = [*self.command, *map(str, source_files), *flags, "-o", str(output)]
        _run(command, Path(output).parent, self.instead())
        check_machine(Path(output), self.architecture)


def find_toolchain(target: Target, *, cplusplus: bool = False) -> Toolchain:
    """The compiler for `target`, to be used: one that the profile names is asked what it compiles for.

    Raises as `locate_toolchain`, and TargetError where the one that the profile names makes code for another
    machine.
    """
    toolchain = locate_toolchain(target, cplusplus=cplusplus)
    told = _told_architecture(toolchain.command) if toolchain.origin == "profile" else ""
    if told and told != target.architecture:
        raise TargetError(
            f"the toolchain of the profile {target.name} makes code for another machine",
            received=f"{target.toolchain!r}, which compiles for {told}",
            valid=f"a compiler for {target.architecture}, or no key toolchain",
        )
    return toolchain


def locate_toolchain(target: Target, *, cplusplus: bool = False) -> Toolchain:
    """The compiler for `target`, to be looked at: of what the profile names nothing is run. One for C will do
    unless `cplusplus` is asked for.

    Raises MissingExtraError where there is none, with the command that installs one, TargetError where
    what the profile names cannot be split into words, or for an unknown architecture.
    """
    architectures.get(target.architecture)
    if target.toolchain:
        own = _own(target)
        if cplusplus and not own.cplusplus:
            raise MissingExtraError(
                f"the compiler that the profile {target.name} names is for C, and C++ is needed",
                received=repr(target.toolchain),
                valid="a C++ compiler in the key toolchain",
                next_command=_without_key(target),
            )
        return own
    found = list(_installed(target.architecture))
    fitting = next((toolchain for toolchain in found if toolchain.cplusplus or not cplusplus), None)
    if fitting is not None:
        return fitting
    raise _missing(target.architecture, target.name, found)


def find_portable_toolchain(target: Target) -> Toolchain:
    """The C++ compiler for executables that shall start on systems older than this one.

    GCC links against the C library that it was installed with, zig against the version that is asked for. So
    zig goes first where it is installed and the profile names no toolchain. Raises as `find_toolchain`.
    """
    architectures.get(target.architecture)
    if not target.toolchain and _has_zig():
        return _zig(target.architecture)
    return find_toolchain(target, cplusplus=True)


def native_toolchain() -> Toolchain:
    """The compiler for this machine. Raises as `locate_toolchain`."""
    architecture = architectures.get(read_cpu().architecture).name
    toolchain = next(_installed(architecture), None)
    if toolchain is None:
        raise _missing(architecture, "host", [])
    return toolchain


def install_commands(architecture: str) -> list[str]:
    """The commands that install a compiler for `architecture`, the nearest first. Raises TargetError for an
    unknown one.
    """
    package = architectures.get(architecture).compiler_package
    if architecture == read_cpu().architecture:
        package = "g++"
    return [f"apt-get install {package}", "pip install 'aqd-deploy[cross]'"]


def check_machine(file: Path, architecture: str) -> None:
    """Raise TargetError where `file`, which a toolchain was to make, is not an ELF file for `architecture`,
    and ToolchainError where it is not there.
    """
    try:
        with file.open("rb") as stream:
            header = stream.read(20)
    except FileNotFoundError:
        raise ToolchainError(f"the toolchain made no file {file.name}, and reported no error") from None
    made = architectures.of_elf(header)
    if made != architecture:
        raise TargetError(
            f"the toolchain made a file for another machine than the target's: {file.name}",
            received=made,
            valid=architecture,
        )


def _run(command: list[str], temporary: Path, instead: str | None) -> None:
    result = processes.run(command, temporary=temporary)
    if result.returncode:
        full = told_failure(result.stderr, temporary)
        if full is not None:
            raise full
        told = result.stderr.replace(f"{temporary}/", "").strip()[-_SHOWN_STDERR:]
        raise ToolchainError(
            f"{command[0]} failed", received=told or f"exit code {result.returncode}", next_command=instead
        )


def _has_zig() -> bool:
    return importlib.util.find_spec("ziglang") is not None


def _zig(architecture: str) -> Toolchain:
    """zig's compilers; `cc` links, since programs hold no C++, whose library `c++` would first build."""
    entry = architectures.get(architecture)
    options = ("-target", f"{entry.gnu_triple}.{_ZIG_GLIBC}", *entry.zig_flags)
    zig = (sys.executable, "-m", "ziglang")
    return Toolchain((*zig, "c++", *options), "zig", architecture, (*zig, "cc", *options))


def _own(target: Target) -> Toolchain:
    """The toolchain that the profile names, not run."""
    try:
        words = shlex.split(target.toolchain)
    except ValueError as error:
        raise TargetError(
            f"the toolchain of {target.name} is not a command line ({error})", received=repr(target.toolchain)
        ) from error
    program = shutil.which(words[0])
    if program is None:
        raise MissingExtraError(
            f"the C++ compiler that the profile {target.name} names is not installed",
            received=repr(target.toolchain),
            next_command=_without_key(target),
        )
    command = (program, *words[1:])
    return Toolchain(command, "profile", target.architecture, cplusplus=_compiles_cplusplus(program))


def _without_key(target: Target) -> str:
    return f"{' or '.join(install_commands(target.architecture))}, without the key toolchain"


def _compiles_cplusplus(program: str) -> bool:
    """As far as the name tells: `aarch64-linux-gnu-gcc-12` does not."""
    return re.fullmatch(rf"(.*-)?({'|'.join(C)})(-[\d.]+)?", Path(program).name) is None


def _told_architecture(command: Sequence[str]) -> str:
    """What `-dumpmachine` answers, "" where the compiler does not know it."""
    try:
        result = subprocess.run(
            [*command, "-dumpmachine"], capture_output=True, text=True, check=False, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    told = result.stdout.strip().split("-")[0] if result.returncode == 0 else ""
    return architecture_of(told) if told else ""


def _installed(architecture: str) -> Iterator[Toolchain]:
    """Every compiler for `architecture` that is installed, the one to take first."""
    for variable in _VARIABLES:
        command = _named_by(variable, architecture)
        if command:
            cplusplus = variable == "CXX" and _compiles_cplusplus(command[0])
            yield Toolchain(command, variable, architecture, cplusplus=cplusplus)
    native = architecture == read_cpu().architecture
    triples = architectures.get(architecture).gnu_triples
    for names, cplusplus in ((CPLUSPLUS, True), (C, False)):
        for name in names if native else ():
            if path := shutil.which(name):
                yield Toolchain((path,), "native", architecture, cplusplus=cplusplus)
        for name in (f"{triple}-{name}" for triple in triples for name in names):
            if path := shutil.which(name, path=_search_path()):
                origin = "native" if native else "cross"
                yield Toolchain((path,), origin, architecture, cplusplus=cplusplus)
    if _has_zig():
        yield _zig(architecture)


def _named_by(variable: str, architecture: str) -> tuple[str, ...]:
    """The command that an environment variable names, where it is there and for `architecture`: in the
    environment of a board's SDK it is the board's.
    """
    try:
        words = shlex.split(os.environ.get(variable, ""))
    except ValueError:
        return ()
    path = shutil.which(words[0], path=_search_path()) if words else None
    if path is None:
        return ()
    command = (path, *words[1:])
    return command if (_told_architecture(command) or read_cpu().architecture) == architecture else ()


def _search_path() -> str:
    """PATH, and where conda keeps its compilers: in the active environment and in that of this Python."""
    folders = [os.environ.get("PATH", os.defpath)]
    folders += [
        str(Path(prefix) / "bin") for prefix in (os.environ.get("CONDA_PREFIX"), sys.prefix) if prefix
    ]
    return os.pathsep.join(folders)


def _missing(architecture: str, name: str, found: Sequence[Toolchain]) -> MissingExtraError:
    """The error where the target `name` has none, or `found`, which are for C."""
    native = CPLUSPLUS if architecture == read_cpu().architecture else ()
    names = [
        *native,
        f"{architectures.get(architecture).gnu_triple}-g++",
        "zig c++ (the package ziglang)",
        "what CXX names",
    ]
    return MissingExtraError(
        f"no C++ compiler for {architecture}, which {name} needs, is installed",
        received=f"{found[0]}, which compiles C" if found else None,
        valid=f"{', '.join(names)}, or the key toolchain of a profile",
        next_command=" or ".join(install_commands(architecture)),
    )
