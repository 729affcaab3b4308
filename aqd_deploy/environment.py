"""The machine and the versions a result was measured with."""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any

from aqd_deploy import __version__
from aqd_deploy.targets.cpu import read_cpu
from aqd_deploy.targets.threads import thread_limits

_CPUINFO = Path("/proc/cpuinfo")
_CLOCK = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
_GOVERNOR = _CLOCK.with_name("scaling_governor")
REPORTED = ("apache-tvm", "apache-tvm-ffi", "onnx", "onnxruntime", "numpy", "torch")


def environment() -> dict[str, Any]:
    """CPU, its clock, governor and load, threads that are used where no number is asked for and what limits
    them, Python, and the versions of the packages that results depend on; JSON-able.
    """
    cpu, limits = read_cpu(), thread_limits()
    return {
        "aqd_deploy": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu.model,
        "threads": limits.usual,
        "thread_limits": str(limits),
        **_clock_and_load(),
        "packages": {name: version for name in REPORTED if (version := installed_version(name)) is not None},
    }


def _clock_and_load() -> dict[str, Any]:
    """Before anything is measured: MHz of the first CPU and what decides on them (Linux's governor), and the
    mean number of runnable processes of the last minute; None where the system does not tell.
    """
    return {
        "clock_mhz": _clock(_read(_CLOCK), _read(_CPUINFO)),
        "governor": _read(_GOVERNOR).strip() or None,
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def _clock(kilohertz: str, cpuinfo: str) -> float | None:
    """MHz of a frequency file or, where there is none, of /proc/cpuinfo."""
    if kilohertz.strip().isdigit():
        return int(kilohertz) / 1000
    found = re.search(r"^cpu MHz\s*:\s*([0-9.]+)$", cpuinfo, re.MULTILINE)
    return float(found[1]) if found else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def installed_version(package: str) -> str | None:
    """The installed version of a distribution, None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
