"""The CPU architectures that programs are compiled for: an entry each, the one place that tells them apart.

To add one: its entry here, a profile beside this file, its instruction set in `isa.py`, and its section of
`bundle/native/cpu.cc`, which tells the runner what the CPU offers. Everybody else asks `get`, which refuses
an unknown name. The first entry is what a TVM target string without a triple means.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from aqd_deploy.errors import TargetError

NOT_ELF = "something that is not an ELF file"


@dataclass(frozen=True)
class Wheels:
    """TVM's runtime as it is published: pip's name of the platform, and the SHA-256 of the wheel of each
    package, of the versions that `bundle.runtime_libraries` names.
    """

    platform: str
    sha256: Mapping[str, str]


@dataclass(frozen=True)
class Sources:
    """TVM's runtime as it is compiled from its sources: what GCC must be told of the CPU."""

    flags: tuple[str, ...]


@dataclass(frozen=True)
class Emulation:
    """`qemu` is qemu's name of the architecture, `libraries` the Debian package with its C and C++ libraries.
    `models` stand for CPUs that qemu does not know: a feature and the model that has just that and what those
    below have; the most capable first, the last one for no feature ("").
    """

    qemu: str
    libraries: str
    models: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Architecture:
    """`name` is what profiles and programs say, `title` what people read above a list of profiles.

    - `bits` of an address, `elf_machine` the number in the header of an ELF file (`e_machine`).
    - `spelling`: a pattern for what `uname -m` and the first parts of triples call it, in lower case.
    - `machines`: what `uname -m` says on systems that can run its programs. A 64-bit kernel may run programs
      of 32 bits; where it does not, the runner cannot be started, which is told then.
    - `gnu_triples`: what names of compilers begin with. The first is that of the distributions, whose cross
      packages put its libraries below `/usr/<triple>`; `compiler_package` is Debian's package of it.
    - `llvm_triples`: how the triples begin that LLVM tells of such a machine.
    - `default_cpu`: LLVM's name of the CPU where a TVM target string names none.
    - `zig_flags`: what zig must be told of the CPU, as it takes no `-march`.
    - `runtime`: where TVM's runtime comes from on other machines; None where only its own machines have it.
    - `emulation`: how qemu runs its programs here; None where it does not.
    - `cpuinfo_names`: what /proc/cpuinfo calls LLVM's features here, where that differs from elsewhere.
    - `has_third_level`: whether a CPU of which a profile tells the second level of caches and no third is
      taken to have a third one.
    """

    name: str
    title: str
    bits: int
    elf_machine: int
    spelling: str
    machines: tuple[str, ...]
    gnu_triples: tuple[str, ...]
    compiler_package: str
    llvm_triples: tuple[str, ...]
    default_cpu: str
    zig_flags: tuple[str, ...] = ()
    runtime: Wheels | Sources | None = None
    emulation: Emulation | None = None
    cpuinfo_names: Mapping[str, str] = field(default_factory=dict)
    has_third_level: bool = False

    @property
    def gnu_triple(self) -> str:
        """How the GNU tools and the folders of cross libraries call it."""
        return self.gnu_triples[0]


ARCHITECTURES = (
    Architecture(
        name="x86_64",
        title="x86-64",
        bits=64,
        elf_machine=62,
        spelling="x86_64|amd64",
        machines=("x86_64", "amd64"),
        gnu_triples=("x86_64-linux-gnu", "x86_64-conda-linux-gnu", "x86_64-pc-linux-gnu"),
        compiler_package="g++-x86-64-linux-gnu",
        llvm_triples=("x86_64",),
        default_cpu="x86-64-v2",
        has_third_level=True,
    ),
    Architecture(
        name="aarch64",
        title="ARM, 64 bits",
        bits=64,
        elf_machine=183,
        spelling="aarch64|arm64",
        machines=("aarch64", "arm64"),
        gnu_triples=("aarch64-linux-gnu", "aarch64-conda-linux-gnu", "aarch64-none-linux-gnu"),
        compiler_package="g++-aarch64-linux-gnu",
        llvm_triples=("aarch64", "arm64"),
        default_cpu="generic",
        runtime=Wheels(
            "manylinux_2_28_aarch64",
            {
                "apache-tvm-ffi": "c7a759781d4fbf2b99fa12f2741f250b882b06acc2747bb02831d491d1ac7d3c",
                "apache-tvm": "4acfdb7653e4e1ba7a707bdf2833db72eb8fda7d04d99141f2a4e1da43171fb7",
            },
        ),
        emulation=Emulation(
            "aarch64",
            "libstdc++6-arm64-cross",
            (("i8mm", "max"), ("asimddp", "cortex-a76"), ("", "cortex-a72")),
        ),
        # LLVM calls the vector unit of both ARM architectures NEON, Linux only that of the older one.
        cpuinfo_names={"neon": "asimd"},
    ),
    Architecture(
        name="armv7",
        title="ARM, 32 bits",
        bits=32,
        elf_machine=40,
        # `armv8l`: a 32-bit process on a 64-bit kernel.
        spelling="armv[78].*|arm",
        machines=("armv7l", "armv8l", "aarch64"),
        gnu_triples=("arm-linux-gnueabihf", "armv7l-conda-linux-gnueabihf", "arm-none-linux-gnueabihf"),
        compiler_package="g++-arm-linux-gnueabihf",
        llvm_triples=("arm",),
        default_cpu="generic",
        # The oldest CPU with what programs ask for.
        zig_flags=("-mcpu=cortex_a8",),
        runtime=Sources(("-march=armv7-a", "-mfpu=neon", "-mfloat-abi=hard")),
        emulation=Emulation("arm", "libstdc++6-armhf-cross", (("", "cortex-a15"),)),
        cpuinfo_names={"neon": "neon"},
    ),
)


def get(name: str) -> Architecture:
    """The entry called `name`. Raises TargetError for another name."""
    found = next((each for each in ARCHITECTURES if each.name == name), None)
    if found is None:
        raise TargetError(
            "unknown architecture",
            received=repr(name),
            valid=", ".join(names()),
            next_command="aqd-deploy targets list",
        )
    return found


def names() -> tuple[str, ...]:
    """The names of all entries."""
    return tuple(each.name for each in ARCHITECTURES)


def emulated() -> tuple[str, ...]:
    """The names of those whose programs qemu runs here."""
    return tuple(each.name for each in ARCHITECTURES if each.emulation is not None)


def architecture_of(machine: str) -> str:
    """The name of the architecture that `uname -m` or a triple's first part calls `machine`; `machine` in
    lower case where nobody knows it.
    """
    machine = machine.lower()
    known = (each.name for each in ARCHITECTURES if re.fullmatch(each.spelling, machine))
    return next(known, machine)


def of_process(machine: str, bits: int) -> str:
    """The name of the architecture of a process whose addresses have `bits` bits, under a kernel that calls
    its machine `machine`; as `architecture_of` where no entry is like that.
    """
    own = architecture_of(machine)
    fitting = [each.name for each in ARCHITECTURES if each.bits == bits and machine in each.machines]
    return own if own in fitting or not fitting else fitting[0]


def of_elf(header: bytes) -> str:
    """The name of the architecture of a file that begins with `header` (20 bytes or more); for anything else
    words that say what it is.
    """
    if not header.startswith(b"\x7fELF") or len(header) < 20:
        return NOT_ELF
    little = header[5] == 1
    machine = int.from_bytes(header[18:20], "little" if little else "big")
    known = (each.name for each in ARCHITECTURES if little and each.elf_machine == machine)
    return next(known, f"{'' if little else 'big-endian '}ELF machine {machine}")
