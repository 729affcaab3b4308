"""What compiling for a target, and running its programs here, needs of this machine (`doctor --target`).

A profile's own `toolchain` is a command out of a file, and looking at a file must not run what it says: it is
run only where the caller asks for that. The compilers of the system are tried.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aqd_deploy.bundle.runtime_libraries import kept_folder
from aqd_deploy.compiler.toolchain import Toolchain, find_toolchain, gnu_triple, locate_toolchain
from aqd_deploy.errors import AqdError, TargetError
from aqd_deploy.files import TemporaryFolder
from aqd_deploy.targets import Target, read_cpu

_EMULATORS = {"x86_64": "qemu-x86_64", "aarch64": "qemu-aarch64", "armv7": "qemu-arm"}


def readiness(target: Target, *, try_toolchain: bool = False) -> dict[str, Any]:
    """The JSON-able answer: `target`, `kernels`, `checks` (each with `what`, `needed_for`, `state`, `detail`
    and, where it is missing, `next_command`) and `ready`: nothing that compiling needs is missing or broken.

    `try_toolchain` also runs the `toolchain` that the profile names; without it that is "untried".
    """
    checks = list(_checks(target, try_toolchain))
    return {
        "target": target.name,
        "triple": target.triple,
        "cpu": target.cpu,
        "kernels": target.kernels,
        "checks": checks,
        "ready": not lacking(checks),
    }


def lacking(checks: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those checks of what compiling needs that found it missing or broken."""
    return [c for c in checks if c["needed_for"] == "compile" and c["state"] in ("missing", "broken")]


def toolchain_state(target: Target, *, try_toolchain: bool = False) -> dict[str, Any]:
    """The toolchain that would be used, or what is missing and the command that installs it. `try_toolchain`
    also asks one that the profile names what it compiles for; without it nothing is run.
    """
    try:
        toolchain = find_toolchain(target) if try_toolchain else locate_toolchain(target)
    except AqdError as error:
        install = {"next_command": error.next_command} if error.next_command else {}
        return {"state": "missing", "detail": _told(error), **install}
    return {"state": "ok", "detail": f"{toolchain} ({toolchain.origin})"}


def _checks(target: Target, try_toolchain: bool) -> Iterable[dict[str, Any]]:
    state = toolchain_state(target, try_toolchain=try_toolchain)
    yield {"what": "C++ compiler", "needed_for": "compile", **state}
    if state["state"] == "ok":
        linking = _linking(locate_toolchain(target), try_toolchain)
        yield {"what": "linking", "needed_for": "compile", **linking}
    yield {"what": "TVM's runtime", "needed_for": "package", **_runtime(target)}
    features = target.missing_on(read_cpu())
    if not features:
        yield {"what": "this machine", "needed_for": "run", "state": "ok", "detail": "runs its programs"}
        return
    yield {
        "what": "this machine",
        "needed_for": "run",
        "state": "other",
        "detail": f"cannot run its programs by itself: lacks {', '.join(features)}",
    }
    if target.architecture in _EMULATORS and target.architecture != read_cpu().architecture:
        yield {"what": "emulator", "needed_for": "run --device qemu", **_emulator(target.architecture)}
        yield {
            "what": "its C library",
            "needed_for": "run --device qemu",
            **_c_library(target.architecture),
        }


def _linking(toolchain: Toolchain, try_toolchain: bool) -> dict[str, Any]:
    """Whether the toolchain makes a shared library; zig's first one takes a minute, so it is not tried."""
    if toolchain.origin == "zig":
        return {"state": "untried", "detail": "zig's first library takes about a minute"}
    if toolchain.origin == "profile" and not try_toolchain:
        return {"state": "untried", "detail": "the profile's own command is run with --try-toolchain only"}
    try:
        with TemporaryFolder() as folder:
            source = folder / "probe.c"
            source.write_text("int probe(void) { return 0; }\n", encoding="utf-8")
            toolchain.link(folder / "probe.so", [source])
    except (OSError, TargetError) as error:
        told = error.strerror or str(error) if isinstance(error, OSError) else _told(error)
        return {"state": "broken", "detail": told, "next_command": "install the whole compiler"}
    return {"state": "ok", "detail": f"makes shared libraries for {toolchain.architecture}"}


def _runtime(target: Target) -> dict[str, Any]:
    """Whether the libraries are here that a program needs on the device; "later" where the first bundle
    fetches or makes them.
    """
    if target.architecture == read_cpu().architecture:
        missing = [name for name in ("tvm", "tvm_ffi") if importlib.util.find_spec(name) is None]
        if missing:
            told = f"not installed: {', '.join(missing)}"
            return {"state": "missing", "detail": told, "next_command": "pip install aqd-deploy"}
        return {"state": "ok", "detail": "that of the installed packages"}
    try:
        folder = kept_folder(target)
    except AqdError as error:
        told = f"it has to be compiled: {_told(error)}"
        return {"state": "missing", "detail": told, "next_command": error.next_command}
    if folder is None:
        return {
            "state": "missing",
            "detail": f"none is published for {target.architecture}",
            "next_command": "aqd-deploy package PROGRAM.so -o BUNDLE --runtime DIR, with your own in DIR",
        }
    if folder.is_dir():
        return {"state": "ok", "detail": str(folder)}
    if target.architecture != "aarch64":
        return {"state": "later", "detail": "the first bundle compiles it (minutes, once)"}
    if importlib.util.find_spec("pip") is None:
        told = "the first bundle downloads it, by pip, which is not installed"
        return {"state": "missing", "detail": told, "next_command": "python -m ensurepip"}
    return {"state": "later", "detail": "the first bundle downloads it (100 MB, once)"}


def _emulator(architecture: str) -> dict[str, Any]:
    name = _EMULATORS[architecture]
    path = shutil.which(f"{name}-static") or shutil.which(name)
    if path is None:
        return {
            "state": "missing",
            "detail": f"no {name}-static or {name}",
            "next_command": "apt-get install qemu-user-static",
        }
    return {"state": "ok", "detail": path}


def _c_library(architecture: str) -> dict[str, Any]:
    folder = Path("/usr") / gnu_triple(architecture) / "lib"
    if not (folder / "libc.so.6").exists():
        package = {"aarch64": "libc6-arm64-cross", "armv7": "libc6-armhf-cross"}.get(architecture)
        return {
            "state": "missing",
            "detail": f"no {folder}/libc.so.6",
            "next_command": f"apt-get install {package}" if package else "a root folder for qemu -L",
        }
    return {"state": "ok", "detail": str(folder)}


def _told(error: AqdError) -> str:
    parts = [error.what, *([f"got {error.received}"] if error.received is not None else [])]
    return "; ".join(parts)
