"""What the verbs need of this machine for a target, and whether it is there (`doctor`, `doctor --target`).

| verb | beside the packages that `doctor` lists |
|---|---|
| compile, tune | kernels for the target, a compiler that links, a folder for temporary files |
| package; run and detect on qemu or ssh | a C++ compiler, TVM's runtime for the target, the cache |
| run, detect, bench | a CPU with the program's instructions; else qemu and libraries, or ssh |

A profile's own `toolchain` is a command out of a file, and looking at a file must not run what it says: it is
run only where the caller asks for that. The compilers of the system are tried.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from aqd_deploy.bundle.cache import cache_folder
from aqd_deploy.bundle.runner import RUNNER_FLAGS
from aqd_deploy.bundle.runtime_libraries import kept_folder
from aqd_deploy.compiler.nvcc import find_cuda_compiler, told_version
from aqd_deploy.compiler.toolchain import (
    Toolchain,
    find_portable_toolchain,
    find_toolchain,
    install_commands,
    locate_toolchain,
)
from aqd_deploy.devices.kinds import KINDS
from aqd_deploy.errors import AqdError
from aqd_deploy.files import TemporaryFolder, failure
from aqd_deploy.kernels.backends import card_backend_of, is_card
from aqd_deploy.targets import Target, architectures, read_cpu
from aqd_deploy.targets.architectures import Wheels

# As short as what needs every part of a C++ compiler.
_PROGRAM = "#include <string>\nint main(int n, char **) { return (int)std::string(n, 'a').size(); }\n"


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
    if target.card:
        return _state(lambda: told_version(find_cuda_compiler()))
    return _state(lambda: _told_toolchain((find_toolchain if try_toolchain else locate_toolchain)(target)))


def kernels_state(target: Target) -> dict[str, Any]:
    """Whether kernels are written for the target: for its backend, and for the instructions of its CPU."""
    return _state(lambda: _told_kernels(target))


def _checks(target: Target, try_toolchain: bool) -> Iterator[dict[str, Any]]:
    yield {"what": "kernels", "needed_for": "compile", **kernels_state(target)}
    state = toolchain_state(target, try_toolchain=try_toolchain)
    yield {"what": "compiler", "needed_for": "compile", **state}
    yield {"what": "temporary files", "needed_for": "compile", **_state(_temporary_files)}
    if target.card:
        # Nothing of its programs is for a CPU, or goes into a bundle.
        yield from _devices(target)
        return
    if state["state"] == "ok":
        linking = _tried(locate_toolchain(target), try_toolchain, _link)
        yield {"what": "linking", "needed_for": "compile", **linking}
    yield {"what": "C++ compiler", "needed_for": "package", **_cplusplus(target, try_toolchain)}
    yield {"what": "TVM's runtime", "needed_for": "package", **_runtime(target)}
    yield {"what": "cache", "needed_for": "package", **_state(_cache)}
    cpu = read_cpu()
    missing = target.missing_on(cpu)
    if not missing:
        yield {"what": "this machine", "needed_for": "run", "state": "ok", "detail": "runs its programs"}
    else:
        yield {
            "what": "this machine",
            "needed_for": "run",
            "state": "other",
            "detail": f"cannot run its programs by itself: lacks {cpu.told(missing)}",
        }
    yield from _devices(target)


def _devices(target: Target) -> Iterator[dict[str, Any]]:
    for kind in KINDS:
        for what, look in kind.needs(target).items():
            yield {"what": what, "needed_for": f"run --device {kind.prefix}", **_state(look)}


def _state(look: Callable[[], str]) -> dict[str, Any]:
    """ "ok" and what `look` found, or what is missing and, where there is one, the command that brings it."""
    try:
        return {"state": "ok", "detail": look()}
    except AqdError as error:
        install = {"next_command": error.next_command} if error.next_command else {}
        return {"state": "missing", "detail": _told(error), **install}


def _told_kernels(target: Target) -> str:
    if is_card(target.backend):
        card_backend_of(target)
    return f"{target.backend}, {target.kernels}"


def _told_toolchain(toolchain: Toolchain) -> str:
    return f"{toolchain} ({toolchain.origin})"


def _cplusplus(target: Target, try_toolchain: bool) -> dict[str, Any]:
    """The compiler of the native runner, and of TVM's runtime where that is compiled."""
    # What a profile names is not run here.
    find = locate_toolchain if target.toolchain and not try_toolchain else find_toolchain
    find_cplusplus = partial(find, cplusplus=True) if target.toolchain else find_portable_toolchain
    state = _state(lambda: _told_toolchain(find_cplusplus(target)))
    if state["state"] != "ok":
        return state
    toolchain = find_cplusplus(target)
    tried = _tried(toolchain, try_toolchain, _compile)
    return tried if tried["state"] == "broken" else {**tried, "detail": state["detail"]}


def _link(toolchain: Toolchain, folder: Path) -> None:
    source = folder / "probe.c"
    source.write_text("int probe(void) { return 0; }\n", encoding="utf-8")
    toolchain.link(folder / "probe.so", [source])


def _compile(toolchain: Toolchain, folder: Path) -> None:
    source = folder / "probe.cc"
    source.write_text(_PROGRAM, encoding="utf-8")
    toolchain.compile([source], folder / "probe", RUNNER_FLAGS)


def _tried(
    toolchain: Toolchain, try_toolchain: bool, use: Callable[[Toolchain, Path], None]
) -> dict[str, Any]:
    """What came of using the toolchain; zig's first time takes a minute, so it is not tried."""
    if toolchain.origin == "zig":
        return {"state": "untried", "detail": "zig's first library takes about a minute"}
    if toolchain.origin == "profile" and not try_toolchain:
        return {"state": "untried", "detail": "the profile's own command is run with --try-toolchain only"}
    try:
        temporary = TemporaryFolder()
        with temporary as folder, temporary.writing():
            use(toolchain, folder)
    except (OSError, AqdError) as error:
        told = error.strerror or str(error) if isinstance(error, OSError) else _told(error)
        # Whoever names a compiler gets that one, whatever is installed.
        instead = toolchain.instead() or " or ".join(install_commands(toolchain.architecture))
        return {"state": "broken", "detail": told, "next_command": instead}
    return {"state": "ok", "detail": f"makes shared libraries for {toolchain.architecture}"}


def _temporary_files() -> str:
    with TemporaryFolder() as folder:
        return str(folder.parent.parent)


def _cache() -> str:
    """The cache's folder. Raises AqdError where it cannot be made or written."""
    try:
        TemporaryFolder(cache_folder()).close()
    except OSError as error:
        advice = "the same command with XDG_CACHE_HOME=FOLDER, another folder for the cache"
        raise failure("the cache cannot be written", error, next_command=advice) from error
    return str(cache_folder())


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
    if isinstance(architectures.get(target.architecture).runtime, Wheels):
        return _download()
    return {"state": "later", "detail": "the first bundle compiles it (minutes, once)"}


def _download() -> dict[str, Any]:
    # importlib.util.find_spec asks setuptools' finder, too, which takes the question for pip itself and keeps
    # setuptools out of this process from then on.
    if importlib.machinery.PathFinder.find_spec("pip") is None:
        told = "the first bundle downloads it, by pip, which is not installed"
        return {"state": "missing", "detail": told, "next_command": "python -m ensurepip"}
    return {"state": "later", "detail": "the first bundle downloads it (100 MB, once)"}


def _told(error: AqdError) -> str:
    parts = [error.what, *([f"got {error.received}"] if error.received is not None else [])]
    return "; ".join(parts)
