"""What is installed on this machine and what is missing, as `doctor` prints it."""

from __future__ import annotations

import re
from importlib import metadata
from typing import Any

from aqd_deploy.compiler.toolchain import native_toolchain
from aqd_deploy.environment import environment, installed_version
from aqd_deploy.errors import MissingExtraError, TargetError
from aqd_deploy.reporting.readiness import readiness
from aqd_deploy.targets import get
from aqd_deploy.targets.cpu import read_cpu

KERNEL_FEATURES = (
    "avx2",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512_vnni",
    "avx512vbmi",
    "avx_vnni",
    "amx_int8",
    "asimddp",
    "i8mm",
)
_REQUIREMENT = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?\s*([^;]*?)\s*(?:;\s*(.*))?$")


def diagnosis() -> dict[str, Any]:
    """What `doctor` prints: environment, every requirement with its state, CPU features, kernels, linker, and
    what verbs need beside packages (`readiness` of this machine).
    """
    checks: list[dict[str, Any]] = []
    try:
        kernels = get("host").kernels
        checks = readiness(get("host"))["checks"]
    except TargetError as error:
        kernels = f"none: {error.what}"
    cpu = read_cpu()
    try:
        linker = native_toolchain().command[0]
    except (MissingExtraError, TargetError):
        linker = None
    requirements = [state for text in _requirements() if (state := _state(text)) is not None]
    return {
        "environment": environment(),
        "cpu_features": [name for name in KERNEL_FEATURES if name in cpu.features],
        "withheld": cpu.withheld,
        "kernels": kernels,
        "linker": linker,
        "requirements": requirements,
        "checks": checks,
        "problems": _problems(requirements, checks),
    }


def _requirements() -> list[str]:
    try:
        return metadata.requires("aqd-deploy") or []
    except metadata.PackageNotFoundError:
        return []


def _state(text: str) -> dict[str, Any] | None:
    """One requirement: the extra it belongs to ("" for the base), what is wanted, what is installed."""
    match = _REQUIREMENT.match(text)
    if match is None or match[1] == "aqd-deploy":
        return None
    extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", match[3] or "")
    version = installed_version(match[1])
    pin = re.fullmatch(r"==\s*([^,\s*]+)", match[2])
    state = (
        "missing" if version is None else "other version" if pin and version.split("+")[0] != pin[1] else "ok"
    )
    return {
        "package": match[1],
        "extra": extra[1] if extra else "",
        "wanted": match[2],
        "installed": version,
        "state": state,
    }


def _problems(requirements: list[dict[str, Any]], checks: list[dict[str, Any]]) -> list[dict[str, str]]:
    """What does not work and the command that mends it; a missing extra is a note, not a failure."""
    found = []
    for extra in dict.fromkeys(entry["extra"] for entry in requirements):
        bad = [e["package"] for e in requirements if e["extra"] == extra and e["state"] != "ok"]
        if bad:
            install = f"pip install 'aqd-deploy[{extra}]'" if extra else "pip install --upgrade aqd-deploy"
            found.append({"what": ", ".join(bad), "extra": extra or "base", "next_command": install})
    for check in checks:
        if check["state"] in ("missing", "broken"):
            what = f"{check['needed_for']}: {check['what']}: {check['detail']}"
            found.append(
                {
                    "what": what,
                    "extra": "base",
                    "next_command": check.get("next_command", "aqd-deploy doctor --target host"),
                }
            )
    if not requirements:
        found.append(
            {
                "what": "aqd-deploy is not installed",
                "extra": "base",
                "next_command": "pip install -e '.[torch]'",
            }
        )
    return found
