"""Target profiles: loading, host detection, raw TVM target strings.

To add a device, put `<name>.toml` beside this file or into a folder of your own (`files.py`): `description`,
`architecture`, `triple`, `cpu` (LLVM's name), `features` (names of /proc/cpuinfo that its programs need;
`extends` adds those of another profile) and optionally `attributes` (LLVM `mattr`) and what is published
about the device. Which kernels are used follows from the features. docs/targets.md lists every key.
"""

from __future__ import annotations

import difflib
import functools
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from aqd_deploy.errors import TargetError
from aqd_deploy.targets.cpu import Cpu, architecture_of, read_cpu
from aqd_deploy.targets.files import read_tables, user_folders

# LLVM's names of the features that generated code may use, in the spelling of /proc/cpuinfo.
LLVM_TO_CPUINFO = {
    "sse3": "pni",
    "ssse3": "ssse3",
    "sse4.1": "sse4_1",
    "sse4.2": "sse4_2",
    "popcnt": "popcnt",
    "cx16": "cx16",
    "sahf": "lahf_lm",
    "avx": "avx",
    "avx2": "avx2",
    "bmi": "bmi1",
    "bmi2": "bmi2",
    "f16c": "f16c",
    "fma": "fma",
    "lzcnt": "abm",
    "movbe": "movbe",
    "avx512f": "avx512f",
    "avx512cd": "avx512cd",
    "avx512bw": "avx512bw",
    "avx512dq": "avx512dq",
    "avx512vl": "avx512vl",
    "avx512vnni": "avx512_vnni",
    "avx512ifma": "avx512ifma",
    "avx512vbmi": "avx512vbmi",
    "avx512vbmi2": "avx512_vbmi2",
    "avx512bitalg": "avx512_bitalg",
    "avx512vpopcntdq": "avx512_vpopcntdq",
    "avx512bf16": "avx512_bf16",
    "avx512fp16": "avx512_fp16",
    "avxvnni": "avx_vnni",
    "amx-tile": "amx_tile",
    "amx-int8": "amx_int8",
    "gfni": "gfni",
    "dotprod": "asimddp",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "sve": "sve",
    "sve2": "sve2",
    "lse": "atomics",
    "rdm": "asimdrdm",
    "fullfp16": "asimdhp",
    "fp16fml": "asimdfhm",
    "complxnum": "fcma",
    "jsconv": "jscvt",
    "rcpc": "lrcpc",
    "flagm": "flagm",
}
# From the most to the least capable: the first that the host satisfies is its profile. On ARM one whose CPU
# is this machine's core comes before.
_HOST_ORDER = (
    "sapphirerapids", "cascadelake", "x86-64-v4", "alderlake", "x86-64-v3", "x86-64-v2",
    "aarch64-dotprod", "aarch64", "armv7-neon",
)  # fmt: skip
_CORE_FIGURES = ("l1d_kib", "int8_macs_per_cycle")
# Instruction sets of the kernels, the fastest first, and the features that their programs may use.
_KERNELS = (
    ("amx", {"amx_tile", "amx_int8", "avx512_vnni", "avx512f", "avx512bw", "avx512vl"}),
    ("vnni", {"avx512_vnni", "avx512f", "avx512bw", "avx512vl"}),
    ("avxvnni", {"avx_vnni", "avx2"}),
    ("avx512", {"avx512f", "avx512bw", "avx512vl"}),
    ("avx2", {"avx2"}),
    ("i8mm", {"asimd", "asimddp", "i8mm"}),
    ("dotprod", {"asimd", "asimddp"}),
    ("neon", {"asimd"}),
    ("neon32", {"neon"}),
)


@dataclass(frozen=True)
class Target:
    """A device to compile for.

    `features` are the /proc/cpuinfo names that a program for this target demands; `cpu`, `triple`,
    `attributes` and `float_abi` ("hard", "soft" or LLVM's default "") go to LLVM. `profile` is the name of
    the file the values come from ("raw" for a TVM target string).

    What is known of the device, None where it is not: `cores`, `clock_ghz`, data caches in KiB (`l1d_kib`,
    `l2_kib` of `l2_cores` cores or of one, `l3_kib` of all), `bandwidth_gb_s` of main memory in 10⁹ bytes/s,
    `int8_macs_per_cycle` of a core. `sources` says where each number is from. `toolchain` is a C++ compiler
    command, `device` how the board is reached.
    """

    name: str
    description: str
    architecture: str
    triple: str
    cpu: str
    features: tuple[str, ...]
    attributes: tuple[str, ...] = ()
    profile: str = ""
    aliases: tuple[str, ...] = ()
    float_abi: str = ""
    soc: str = ""
    cores: int | None = None
    clock_ghz: float | None = None
    l1d_kib: float | None = None
    l2_kib: float | None = None
    l3_kib: float | None = None
    l2_cores: int | None = None
    bandwidth_gb_s: float | None = None
    int8_macs_per_cycle: float | None = None
    toolchain: str = ""
    device: str = ""
    sources: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def kernels(self) -> str:
        """The instruction set of the kernels that the features allow, a value of `kernels.isa.Isa`;
        `portable` where they allow no other.
        """
        have = set(self.features)
        return next((name for name, needed in _KERNELS if needed <= have), "portable")

    def tvm(self) -> dict[str, Any]:
        """The TVM target as the dictionary that `tvm.target.Target` takes."""
        target: dict[str, Any] = {"kind": "llvm", "mtriple": self.triple, "mcpu": self.cpu}
        if self.attributes:
            target["mattr"] = list(self.attributes)
        if self.float_abi:
            target["mfloat-abi"] = self.float_abi
        return target

    def missing_on(self, cpu: Cpu) -> list[str]:
        """Features the programs need and `cpu` lacks, sorted; another architecture is one entry."""
        if cpu.architecture != self.architecture:
            return [f"architecture {self.architecture}"]
        return sorted(set(self.features) - cpu.features)


@functools.cache
def _load(folders: tuple[Path, ...]) -> dict[str, Target]:
    return {name: _from_table(name, table) for name, table in read_tables(folders).tables.items()}


def _profiles() -> dict[str, Target]:
    return _load(user_folders())


def _from_table(name: str, table: dict[str, Any]) -> Target:
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in table.items()
    }
    values.pop("extends", None)
    values["features"] = tuple(sorted(values["features"]))
    return Target(name=name, profile=name, **values)


def _aliases() -> dict[str, str]:
    """Profile names by alias; no alias hides a name."""
    return {alias: name for name, target in _profiles().items() for alias in target.aliases}


def problems() -> dict[str, TargetError]:
    """The profile files that cannot be used, by the name they would have."""
    return dict(read_tables(user_folders()).problems)


def path_of(target: Target) -> str:
    """The file of a target's profile, "" for a TVM target string."""
    return read_tables(user_folders()).paths.get(target.profile, "")


def names() -> list[str]:
    """Names that `get` takes: `host`, then every profile."""
    return ["host", *_profiles()]


def get(name: str | Target) -> Target:
    """The target called `name`, or the one a TVM target string describes.

    Target strings are JSON (`{"kind": "llvm", "mcpu": ...}`) or in the older form
    `llvm -mcpu=... -mattr=+...`.

    Raises TargetError for an unknown name (with the nearest ones), for a profile whose file cannot be used,
    and for a string that is no LLVM target.
    """
    if isinstance(name, Target):
        return name
    text = name.strip()
    if text == "host":
        return detect_host()
    if text.startswith("{") or text.split(" ")[0] == "llvm":
        return _from_tvm_string(text)
    known = text.lower()
    if known in _profiles():
        return _profiles()[known]
    if known in problems():
        raise problems()[known]
    if known in _aliases():
        return _profiles()[_aliases()[known]]
    aliases = _aliases()
    close = difflib.get_close_matches(known, [*names(), *aliases], n=6, cutoff=0.5)
    nearest = list(dict.fromkeys(aliases.get(each, each) for each in close))[:3]
    valid = ", ".join(nearest) if nearest else ", ".join(names())
    raise TargetError(
        "unknown target",
        received=repr(name),
        valid=f"{'nearest ' if nearest else ''}{valid}, or a TVM target string",
        next_command="aqd-deploy targets list",
    )


def detect_host(cpu: Cpu | None = None) -> Target:
    """The most capable profile that `cpu` (default: this machine's) satisfies, under the name `host`.

    Raises TargetError where no profile fits.
    """
    cpu = cpu or read_cpu()
    shipped = read_tables(()).tables
    same_core = sorted(name for name, table in shipped.items() if cpu.core and table["cpu"] == cpu.core)
    for name in (*same_core, *_HOST_ORDER):
        profile = _load(())[name]
        if not profile.missing_on(cpu):
            return _as_host(profile, cpu)
    raise TargetError(
        "no profile fits this machine's CPU",
        received=f"{cpu.architecture} {cpu.model}",
        valid=", ".join(_HOST_ORDER),
        next_command="aqd-deploy targets list",
    )


def _as_host(profile: Target, cpu: Cpu) -> Target:
    """`profile` for this machine: what is published of its core stays, what is of one board goes."""
    return replace(
        profile,
        name="host",
        description=f"this machine: {profile.description}",
        aliases=(),
        soc="",
        cores=cpu.threads,
        clock_ghz=None,
        l2_kib=None,
        l2_cores=None,
        l3_kib=None,
        bandwidth_gb_s=None,
        toolchain="",
        device="",
        sources={key: profile.sources[key] for key in _CORE_FIGURES if key in profile.sources},
    )


def _from_tvm_string(text: str) -> Target:
    table = _parse_json_target(text) if text.startswith("{") else _parse_cli_target(text)
    if table.get("kind") != "llvm":
        raise TargetError(
            "only LLVM targets can be compiled", received=repr(text), valid='{"kind": "llvm", ...}'
        )
    unknown = sorted(set(table) - {"kind", "mtriple", "mcpu", "mattr", "mfloat-abi"})
    if unknown:
        raise TargetError(
            f"unknown target option {', '.join(unknown)}",
            received=repr(text),
            valid="mtriple, mcpu, mattr, mfloat-abi",
        )
    triple = str(table.get("mtriple", "x86_64-linux-gnu"))
    architecture = architecture_of(triple.split("-")[0])
    cpu = str(table.get("mcpu", "x86-64-v2" if architecture == "x86_64" else "generic"))
    attributes = tuple(str(a) for a in table.get("mattr", ()))
    known = _profiles().get(cpu)
    added = {LLVM_TO_CPUINFO.get(a[1:], a[1:]) for a in attributes if a.startswith("+")}
    return Target(
        name=text,
        description="TVM target string",
        architecture=architecture,
        triple=triple,
        cpu=cpu,
        features=tuple(sorted(set(known.features if known else ()) | added)),
        attributes=attributes,
        float_abi=str(table.get("mfloat-abi", "")),
        profile="raw",
    )


def _parse_json_target(text: str) -> dict[str, Any]:
    try:
        table = json.loads(text)
    except json.JSONDecodeError as error:
        raise TargetError(f"the target string is not JSON ({error})", received=repr(text)) from error
    if not isinstance(table, dict):
        raise TargetError("the target string is not a JSON object", received=repr(text))
    return table


def _parse_cli_target(text: str) -> dict[str, Any]:
    """`llvm -mcpu=x -mattr=+a,+b`, the form that TVM itself no longer reads."""
    table: dict[str, Any] = {"kind": "llvm"}
    for word in shlex.split(text)[1:]:
        key, equals, value = word.partition("=")
        if not key.startswith("-") or not equals:
            raise TargetError(
                "the target string cannot be read", received=repr(text), valid="llvm -mcpu=NAME -mattr=+F"
            )
        table[key.lstrip("-")] = value.split(",") if key == "-mattr" else value
    return table
