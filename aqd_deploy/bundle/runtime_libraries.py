"""TVM's runtime libraries for the architecture of a program.

Where they come from, the first that applies:

1. a folder that the user names (`package --runtime`), for any architecture;
2. the installed packages, for this machine's architecture;
3. where the entry of the architecture (`targets.architectures`) says so, the published wheels of the same
   versions, downloaded once by pip and compared with the hashes there;
4. where it says that, the C++ sources that the installed packages carry, cross-compiled once.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from aqd_deploy import processes
from aqd_deploy.bundle import runtime_sources
from aqd_deploy.bundle.cache import cache_folder, cached, key_of
from aqd_deploy.compiler.toolchain import Toolchain, find_toolchain, locate_toolchain
from aqd_deploy.errors import BundleError
from aqd_deploy.files import TemporaryFolder, told_failure
from aqd_deploy.targets import Target, architectures, read_cpu
from aqd_deploy.targets.architectures import Sources, Wheels

# In the order in which they must be loaded: the second needs the first.
LIBRARIES = ("libtvm_ffi.so", "libtvm_runtime.so")


@dataclass(frozen=True)
class _Package:
    """A package, the version whose wheels are known, and its library in them."""

    name: str
    version: str
    member: str


# In the order of `LIBRARIES`.
_PACKAGES = (
    _Package("apache-tvm-ffi", "0.1.14.post1", "tvm_ffi/lib/libtvm_ffi.so"),
    _Package("apache-tvm", "0.27.0.post1", "tvm/lib/libtvm_runtime.so"),
)


def runtime_libraries(
    target: Target, folder: Path | None = None, progress: Callable[[str], None] = lambda _: None
) -> list[Path]:
    """Paths of `LIBRARIES`, in that order, for `target`; those in `folder` where one is given.

    Raises BundleError where there are none, where they are for another architecture, where a download fails
    or is not what it should be and where the cache cannot be written, TargetError for an unknown
    architecture, and what a toolchain raises.
    """
    found = _found(target, progress) if folder is None else [folder / name for name in LIBRARIES]
    for path in found:
        _check(path, target)
    return found


def _found(target: Target, progress: Callable[[str], None]) -> list[Path]:
    if target.architecture == read_cpu().architecture:
        return [_installed("tvm_ffi") / "lib" / LIBRARIES[0], _installed("tvm") / "lib" / LIBRARIES[1]]
    runtime = architectures.get(target.architecture).runtime
    if isinstance(runtime, Wheels):
        return _from_wheels(target.architecture, runtime, progress)
    if isinstance(runtime, Sources):
        return _from_sources(target, runtime, progress)
    others = (each.name for each in architectures.ARCHITECTURES if each.runtime is not None)
    raise BundleError(
        f"no runtime libraries for {target.architecture}",
        valid=", ".join([read_cpu().architecture, *others]),
        next_command="aqd-deploy package PROGRAM.so -o BUNDLE --runtime DIR, with your own in DIR",
    )


def kept_folder(target: Target) -> Path | None:
    """The cache's folder in which `runtime_libraries` keeps those that it fetches or makes for `target`, be
    it there or not; None where they come from the installed packages or from nowhere.

    Runs nothing. Raises what `locate_toolchain` raises where they have to be made and no compiler is found,
    TargetError for an unknown architecture.
    """
    if target.architecture == read_cpu().architecture:
        return None
    runtime = architectures.get(target.architecture).runtime
    if isinstance(runtime, Wheels):
        return cache_folder() / _wheels_name(target.architecture, runtime)
    if isinstance(runtime, Sources):
        return cache_folder() / _sources_name(runtime, locate_toolchain(target, cplusplus=True))
    return None


def _check(path: Path, target: Target) -> None:
    if not path.is_file():
        raise BundleError("a runtime library is missing", received=path, valid=", ".join(LIBRARIES))
    with path.open("rb") as file:
        architecture = architectures.of_elf(file.read(64))
    if architecture != target.architecture:
        raise BundleError(
            f"{path} is for another architecture", received=architecture, valid=target.architecture
        )


def _installed(package: str) -> Path:
    """The folder of an installed package, found without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise BundleError("the TVM runtime is not installed", next_command="pip install aqd-deploy")
    return Path(spec.submodule_search_locations[0])


def _from_wheels(architecture: str, wheels: Wheels, progress: Callable[[str], None]) -> list[Path]:
    """The libraries in `wheels`, unpacked once into the cache."""
    for package in _PACKAGES:
        if metadata.version(package.name) != package.version:
            raise BundleError(
                f"no {architecture} runtime is known for {package.name} {metadata.version(package.name)}",
                valid=f"{package.name} {package.version}",
            )

    def make(folder: Path) -> None:
        progress(f"fetching TVM's {architecture} runtime, once: 100 MB")
        with TemporaryFolder() as downloads:
            for path, package in zip(_download(architecture, wheels, downloads), _PACKAGES, strict=True):
                with zipfile.ZipFile(path) as archive:
                    (folder / Path(package.member).name).write_bytes(archive.read(package.member))

    folder = cached(_wheels_name(architecture, wheels), make)
    return [folder / name for name in LIBRARIES]


def _from_sources(target: Target, sources: Sources, progress: Callable[[str], None]) -> list[Path]:
    """The libraries compiled for `target`, once."""
    toolchain = find_toolchain(target, cplusplus=True)
    packages = _installed("tvm"), _installed("tvm_ffi")

    def make(folder: Path) -> None:
        progress(f"compiling TVM's runtime for {target.architecture}, once: minutes")
        runtime_sources.build_runtime(toolchain, sources, *packages, folder)
        shutil.rmtree(folder / "objects")

    folder = cached(_sources_name(sources, toolchain), make)
    return [folder / name for name in LIBRARIES]


def _wheels_name(architecture: str, wheels: Wheels) -> str:
    hashes = (wheels.sha256[package.name][:12] for package in _PACKAGES)
    return "-".join(["runtime", architecture, *hashes])


def _sources_name(sources: Sources, toolchain: Toolchain) -> str:
    versions = " ".join(f"{package.name} {metadata.version(package.name)}" for package in _PACKAGES)
    key = key_of([runtime_sources.recipe(toolchain, sources), versions.encode()])
    return f"runtime-{toolchain.architecture}-{key}"


def _download(architecture: str, wheels: Wheels, folder: Path) -> list[Path]:
    """Let pip fetch the `wheels` into `folder`, by its own settings (index, proxy, find-links)."""
    options = ["--no-deps", "--only-binary=:all:", "--platform", wheels.platform]
    options += ["--python-version", "3.11"]
    names = [f"{package.name}=={package.version}" for package in _PACKAGES]
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
    ]
    result = processes.run([*command, *options, "-d", folder, *names], temporary=folder)
    if result.returncode:
        full = told_failure(result.stderr, folder)
        if full is not None:
            raise full
        lines = result.stderr.strip().splitlines() or ["pip gave no reason"]
        raise BundleError(
            f"cannot download TVM's {architecture} runtime (100 MB, once): {lines[-1]}",
            next_command=f"pip download {' '.join(options)} -d DIR {' '.join(names)}, where there is a "
            "network, then PIP_FIND_LINKS=DIR aqd-deploy package PROGRAM.so -o BUNDLE",
        )
    return [_verified(folder, package, wheels.sha256[package.name]) for package in _PACKAGES]


def _verified(folder: Path, package: _Package, published: str) -> Path:
    found = sorted(folder.glob(f"{package.name.replace('-', '_')}-{package.version}-*.whl"))
    if len(found) != 1:
        raise BundleError(f"pip downloaded no wheel of {package.name}", received=[p.name for p in found])
    with found[0].open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != published:
        raise BundleError(
            f"{found[0].name} is not the published wheel", received=f"SHA-256 {digest}", valid=published
        )
    return found[0]
