"""What this machine's CPU is: architecture, model, and feature flags as /proc/cpuinfo names them."""

from __future__ import annotations

import functools
import os
import platform
from dataclasses import dataclass
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_ARCHITECTURES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}


@dataclass(frozen=True)
class Cpu:
    """`architecture` as in `uname -m` (x86_64, aarch64), `model` for people, `features` of /proc/cpuinfo."""

    architecture: str
    model: str
    features: frozenset[str]
    threads: int


def parse_cpuinfo(text: str) -> tuple[str, frozenset[str]]:
    """Model name and features of the first processor (`flags` on x86, `Features` on ARM)."""
    model, features = "unknown", frozenset[str]()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        key = key.strip()
        if key == "model name" and model == "unknown":
            model = value.strip()
        if key in ("flags", "Features") and not features:
            features = frozenset(value.split())
    return model, features


@functools.cache
def read_cpu() -> Cpu:
    """The CPU of this machine; no features where the kernel does not tell them."""
    text = _CPUINFO.read_text(encoding="utf-8", errors="replace") if _CPUINFO.exists() else ""
    model, features = parse_cpuinfo(text)
    machine = platform.machine().lower()
    return Cpu(_ARCHITECTURES.get(machine, machine), model, features, available_threads())


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
    """Number of hardware threads this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
