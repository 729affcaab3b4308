"""The machine and the versions a result was measured with."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

from aqd_deploy import __version__
from aqd_deploy.targets.cpu import read_cpu
from aqd_deploy.targets.threads import thread_limits

REPORTED = ("apache-tvm", "apache-tvm-ffi", "onnx", "onnxruntime", "numpy", "torch")


def environment() -> dict[str, Any]:
    """CPU, threads that are used where no number is asked for and what limits them, Python, and the versions
    of the packages that results depend on; JSON-able.
    """
    cpu, limits = read_cpu(), thread_limits()
    return {
        "aqd_deploy": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu.model,
        "threads": limits.usual,
        "thread_limits": str(limits),
        "packages": {name: version for name in REPORTED if (version := installed_version(name)) is not None},
    }


def installed_version(package: str) -> str | None:
    """The installed version of a distribution, None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
