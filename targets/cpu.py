"""What this machine's CPU is: architecture, model, and feature flags as /proc/cpuinfo names them."""

from __future__ import annotations

import functools
import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from aqd_deploy.targets import amx
from aqd_deploy.targets.threads import thread_limits

_CPUINFO = Path("/proc/cpuinfo")
_DEVICE_TREE_MODEL = Path("/proc/device-tree/model")
_ARCHITECTURES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}
# LLVM's names of ARM's cores by the "CPU part" of implementer 0x41, the smallest first: the profile of a
# machine with two kinds of cores is that of its big ones.
_ARM_CORES = {
    "0xc07": "cortex-a7",
    "0xc09": "cortex-a9",
    "0xc0f": "cortex-a15",
    "0xd04": "cortex-a35",
    "0xd03": "cortex-a53",
    "0xd05": "cortex-a55",
    "0xd07": "cortex-a57",
    "0xd08": "cortex-a72",
    "0xd09": "cortex-a73",
    "0xd0a": "cortex-a75",
    "0xd0b": "cortex-a76",
    "0xd0c": "neoverse-n1",
    "0xd41": "cortex-a78",
    "0xd42": "cortex-a78ae",
    "0xd40": "neoverse-v1",
}


@dataclass(frozen=True)
class Cpu:
    """`architecture` x86_64, aarch64, armv7 or as in `uname -m`, `model` for people, `features` of
    /proc/cpuinfo, `core` LLVM's name of an ARM core ("" where it is not known). `withheld`: why this process
    may not use AMX although the CPU has it; its features are not among `features` then.
    """

    architecture: str
    model: str
    features: frozenset[str]
    threads: int
    core: str = ""
    withheld: str = ""


def architecture_of(machine: str) -> str:
    """The architecture of `uname -m` or of a triple's first part: x86_64, aarch64, armv7; else `machine`.

    Both `armv7l` and `armv8l` (a 32-bit process on a 64-bit kernel) are armv7.
    """
    machine = machine.lower()
    return "armv7" if re.match(r"armv[78]|arm$", machine) else _ARCHITECTURES.get(machine, machine)


def parse_cpuinfo(text: str) -> tuple[str, frozenset[str]]:
    """Model name and features of the first processor (`flags` on x86, `Features` on ARM). 64-bit ARM kernels
    tell no model name but some the board's, in a line `Model`.
    """
    model, features = "unknown", frozenset[str]()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        key = key.strip()
        if key in ("model name", "Model") and model == "unknown":
            model = value.strip()
        if key in ("flags", "Features") and not features:
            features = frozenset(value.split())
    return model, features


def parse_core(text: str) -> str:
    """LLVM's name of the biggest ARM core in the text of /proc/cpuinfo, "" where none is known."""
    implementers = set(re.findall(r"^CPU implementer\s*:\s*(\S+)", text, re.MULTILINE))
    parts = set(re.findall(r"^CPU part\s*:\s*(\S+)", text, re.MULTILINE))
    known = [name for part, name in _ARM_CORES.items() if part in parts]
    return known[-1] if known and implementers == {"0x41"} else ""


@functools.cache
def read_cpu() -> Cpu:
    """The CPU of this machine; no features where the kernel does not tell them."""
    text = _CPUINFO.read_text(encoding="utf-8", errors="replace") if _CPUINFO.exists() else ""
    model, features = parse_cpuinfo(text)
    core = parse_core(text)
    if model == "unknown":
        model = _board_model() or core or model
    withheld = ""
    if features.intersection(amx.FEATURES):
        withheld = amx.refusal()
        if withheld:
            features -= set(amx.FEATURES)
    return Cpu(_own_architecture(), model, features, available_threads(), core, withheld)


def _own_architecture() -> str:
    """Of this process: 32 bits on a 64-bit ARM kernel are armv7."""
    architecture = architecture_of(platform.machine())
    return "armv7" if architecture == "aarch64" and sys.maxsize < 2**32 else architecture


def _board_model() -> str:
    """What the device tree calls the board, "" where there is none."""
    try:
        return _DEVICE_TREE_MODEL.read_text(encoding="utf-8", errors="replace").strip("\0 \n")
    except OSError:
        return ""


@functools.cache
def cpu_kind() -> str:
    """Vendor, family and model numbers of this machine's CPU, for example "GenuineIntel-6-85"; on ARM the
    implementer and part. CPUs of one kind have the same cores, whatever their names and clocks.
    """
    text = _CPUINFO.read_text(encoding="utf-8", errors="replace") if _CPUINFO.exists() else ""
    return parse_cpu_kind(text) or platform.machine().lower()


def parse_cpu_kind(text: str) -> str:
    """The kind of the first processor of /proc/cpuinfo, "" where it is not told."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        values.setdefault(key.strip(), value.strip())
    for names in (("vendor_id", "cpu family", "model"), ("CPU implementer", "CPU part")):
        if all(name in values for name in names):
            return "-".join(values[name] for name in names)
    return ""


def available_threads() -> int:
    """The most threads that this process has use for (`threads.thread_limits`)."""
    return thread_limits().available


def usual_threads() -> int:
    """How many threads to use where no number is asked for: the available ones, or OMP_NUM_THREADS."""
    return thread_limits().usual
