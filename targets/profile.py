"""Target profiles: loading, host detection, raw TVM target strings.

To add a device, put `<name>.toml` beside this file: `description`, `architecture`, `triple`, `cpu` (LLVM's
name), `features` (names of /proc/cpuinfo that its programs need; `extends` adds those of another profile) and
optionally `attributes` (LLVM `mattr`). Which kernels are used follows from the features.
"""

from __future__ import annotations

import difflib
import functools
import json
import shlex
import tomllib
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

from aqd_deploy.errors import TargetError
from aqd_deploy.targets.cpu import Cpu, read_cpu

# LLVM's names of the x86 features that generated code may use, in the spelling of /proc/cpuinfo.
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
    "dotprod": "asimddp",
    "i8mm": "i8mm",
    "sve": "sve",
    "lse": "atomics",
}
# From the most to the least capable: the first that the host satisfies is its profile.
_HOST_ORDER = ("cascadelake", "x86-64-v4", "alderlake", "x86-64-v3", "x86-64-v2")
# Instruction sets of the kernels, the fastest first, and the features that their programs may use.
_KERNELS = (
    ("vnni", {"avx512_vnni", "avx512f", "avx512bw", "avx512vl"}),
    ("avxvnni", {"avx_vnni", "avx2"}),
    ("avx512", {"avx512f", "avx512bw", "avx512vl"}),
    ("avx2", {"avx2"}),
    ("dotprod", {"asimd", "asimddp"}),
    ("neon", {"asimd"}),
    ("neon32", {"neon"}),
)


@dataclass(frozen=True)
class Target:
    """A device to compile for.

    `features` are the /proc/cpuinfo names that a program for this target demands; `cpu`, `triple` and
    `attributes` go to LLVM. `profile` is the file the values come from ("raw" for a TVM target string).
    """

    name: str
    description: str
    architecture: str
    triple: str
    cpu: str
    features: tuple[str, ...]
    attributes: tuple[str, ...] = ()
    profile: str = ""

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
        return target

    def missing_on(self, cpu: Cpu) -> list[str]:
        """Features the programs need and `cpu` lacks, sorted; another architecture is one entry."""
        if cpu.architecture != self.architecture:
            return [f"architecture {self.architecture}"]
        return sorted(set(self.features) - cpu.features)


@functools.cache
def _profiles() -> dict[str, Target]:
    raw = {
        entry.name.removesuffix(".toml"): tomllib.loads(entry.read_text(encoding="utf-8"))
        for entry in resources.files("aqd_deploy.targets").iterdir()
        if entry.name.endswith(".toml")
    }
    return {name: _from_table(name, raw) for name in sorted(raw)}


def _from_table(name: str, raw: dict[str, dict[str, Any]]) -> Target:
    table = raw[name]
    features = _features(name, raw)
    return Target(
        name=name,
        description=table["description"],
        architecture=table["architecture"],
        triple=table["triple"],
        cpu=table["cpu"],
        features=tuple(sorted(features)),
        attributes=tuple(table.get("attributes", ())),
        profile=name,
    )


def _features(name: str, raw: dict[str, dict[str, Any]]) -> set[str]:
    table = raw[name]
    inherited = _features(table["extends"], raw) if "extends" in table else set()
    return inherited | set(table["features"])


def names() -> list[str]:
    """Names that `get` takes: `host`, then every profile."""
    return ["host", *_profiles()]


def get(name: str | Target) -> Target:
    """The target called `name`, or the one a TVM target string describes.

    Target strings are JSON (`{"kind": "llvm", "mcpu": ...}`) or in the older form
    `llvm -mcpu=... -mattr=+...`.

    Raises TargetError for an unknown name (with the nearest ones) and for a string that is no LLVM target.
    """
    if isinstance(name, Target):
        return name
    text = name.strip()
    if text == "host":
        return detect_host()
    if text in _profiles():
        return _profiles()[text]
    if text.startswith("{") or text.split(" ")[0] == "llvm":
        return _from_tvm_string(text)
    nearest = difflib.get_close_matches(text, names(), n=3, cutoff=0.4)
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
    for name in _HOST_ORDER:
        profile = _profiles()[name]
        if not profile.missing_on(cpu):
            return replace(profile, name="host", description=f"this machine: {profile.description}")
    raise TargetError(
        "no profile fits this machine's CPU",
        received=f"{cpu.architecture} {cpu.model}",
        valid=", ".join(_HOST_ORDER),
        next_command="aqd-deploy targets list",
    )


def _from_tvm_string(text: str) -> Target:
    table = _parse_json_target(text) if text.startswith("{") else _parse_cli_target(text)
    if table.get("kind") != "llvm":
        raise TargetError(
            "only LLVM targets can be compiled", received=repr(text), valid='{"kind": "llvm", ...}'
        )
    unknown = sorted(set(table) - {"kind", "mtriple", "mcpu", "mattr"})
    if unknown:
        raise TargetError(
            f"unknown target option {', '.join(unknown)}", received=repr(text), valid="mtriple, mcpu, mattr"
        )
    cpu = str(table.get("mcpu", "x86-64-v2"))
    triple = str(table.get("mtriple", "x86_64-linux-gnu"))
    attributes = tuple(str(a) for a in table.get("mattr", ()))
    known = _profiles().get(cpu)
    added = {LLVM_TO_CPUINFO.get(a[1:], a[1:]) for a in attributes if a.startswith("+")}
    return Target(
        name=text,
        description="TVM target string",
        architecture=triple.split("-")[0],
        triple=triple,
        cpu=cpu,
        features=tuple(sorted(set(known.features if known else ()) | added)),
        attributes=attributes,
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
