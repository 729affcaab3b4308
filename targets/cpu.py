"""What this machine's CPU is and offers: architecture, model, and features as /proc/cpuinfo names them.

`Cpu.lacks` is the one place that decides whether a CPU offers what a program needs; `bundle/native/cpu.cc`
is that place for `aqd-run`.
"""

from __future__ import annotations

import functools
import platform
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from aqd_deploy.targets import amx, architectures
from aqd_deploy.targets.cores import parse_core
from aqd_deploy.targets.threads import thread_limits

_CPUINFO = Path("/proc/cpuinfo")
_DEVICE_TREE_MODEL = Path("/proc/device-tree/model")


@dataclass(frozen=True)
class Cpu:
    """`architecture` as `architectures` names it or, unknown there, as in `uname -m`; `model` for people,
    `features` of /proc/cpuinfo, `core` LLVM's name of an ARM core ("" where it is not known). `withheld`:
    what the CPU has and this process may not use, and why; `features` are without it.
    """

    architecture: str
    model: str
    features: frozenset[str]
    threads: int
    core: str = ""
    withheld: str = ""

    def lacks(self, features: Iterable[str]) -> list[str]:
        """Those of `features` that this CPU does not offer, sorted."""
        return sorted(set(features) - self.features)

    def withholds(self, missing: Sequence[str]) -> bool:
        """Whether all that it lacks, `missing`, is what is withheld."""
        return bool(self.withheld and missing) and set(missing) <= set(amx.FEATURES)

    def told(self, missing: Sequence[str]) -> str:
        """What it lacks for people, with the reason where there is one."""
        names = ", ".join(missing)
        return f"{names} ({self.withheld})" if self.withholds(missing) else names


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


@functools.cache
def read_cpu() -> Cpu:
    """The CPU of this machine; no features where the kernel does not tell them."""
    text = _CPUINFO.read_text(encoding="utf-8", errors="replace") if _CPUINFO.exists() else ""
    model, features = parse_cpuinfo(text)
    core = parse_core(text)
    if model == "unknown":
        model = _board_model() or core or model
    bits = sys.maxsize.bit_length() + 1
    architecture = architectures.of_process(platform.machine(), bits)
    refusal = amx.refusal() if features.intersection(amx.FEATURES) else ""
    withheld = f"AMX: {refusal}" if refusal else ""
    if withheld:
        features -= set(amx.FEATURES)
    return Cpu(architecture, model, features, available_threads(), core, withheld)


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
