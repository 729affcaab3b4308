"""TVM's runtime libraries for the architecture of a program.

Where they come from, the first that applies:

1. a folder that the user names (`package --runtime`), for any architecture;
2. the installed packages, for this machine's architecture;
3. the published wheels of the same versions, for aarch64: downloaded once by pip and compared with the hashes
   below;
4. the C++ sources that the installed packages carry, cross-compiled once, for armv7.
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
from aqd_deploy.bundle.elf import elf_architecture
from aqd_deploy.compiler.toolchain import Toolchain, find_toolchain, locate_toolchain
from aqd_deploy.errors import BundleError
from aqd_deploy.files import TemporaryFolder, told_failure
from aqd_deploy.targets import Target, read_cpu

# In the order in which they must be loaded: the second needs the first.
LIBRARIES = ("libtvm_ffi.so", "libtvm_runtime.so")


@dataclass(frozen=True)
class _Wheel:
    package: str
    version: str
    sha256: str
    member: str


_AARCH64_WHEELS = (
    _Wheel(
        "apache-tvm-ffi",
        "0.1.14.post1",
        "c7a759781d4fbf2b99fa12f2741f250b882b06acc2747bb02831d491d1ac7d3c",
        "tvm_ffi/lib/libtvm_ffi.so",
    ),
    _Wheel(
        "apache-tvm",
        "0.27.0.post1",
        "4acfdb7653e4e1ba7a707bdf2833db72eb8fda7d04d99141f2a4e1da43171fb7",
        "tvm/lib/libtvm_runtime.so",
    ),
)


def runtime_libraries(
    target: Target, folder: Path | None = None, progress: Callable[[str], None] = lambda _: None
) -> list[Path]:
    """Paths of `LIBRARIES`, in that order, for `target`; those in `folder` where one is given.

    Raises BundleError where there are none, where they are for another architecture, where a download fails
    or is not what it should be and where the cache cannot be written, and what a toolchain raises.
    """
    if folder is not None:
        found = [folder / name for name in LIBRARIES]
    elif target.architecture == read_cpu().architecture:
        found = [_installed("tvm_ffi") / "lib" / LIBRARIES[0], _installed("tvm") / "lib" / LIBRARIES[1]]
    elif target.architecture == "aarch64":
        found = _from_wheels(_AARCH64_WHEELS, progress)
    elif target.architecture in runtime_sources.ARCHITECTURES:
        found = _from_sources(target, progress)
    else:
        raise BundleError(
            f"no runtime libraries for {target.architecture}",
            valid=f"{read_cpu().architecture}, aarch64, {', '.join(runtime_sources.ARCHITECTURES)}",
            next_command="aqd-deploy package PROGRAM.so -o BUNDLE --runtime DIR, with your own in DIR",
        )
    for path in found:
        _check(path, target)
    return found


def kept_folder(target: Target) -> Path | None:
    """The cache's folder in which `runtime_libraries` keeps those that it fetches or makes for `target`, be
    it there or not; None where they come from the installed packages or from nowhere.

    Runs nothing. Raises what `locate_toolchain` raises where they have to be made and there is no compiler.
    """
    if target.architecture == read_cpu().architecture:
        return None
    if target.architecture == "aarch64":
        return cache_folder() / _wheels_name(_AARCH64_WHEELS)
    if target.architecture in runtime_sources.ARCHITECTURES:
        return cache_folder() / _sources_name(target, locate_toolchain(target, cplusplus=True))
    return None


def _check(path: Path, target: Target) -> None:
    if not path.is_file():
        raise BundleError("a runtime library is missing", received=path, valid=", ".join(LIBRARIES))
    with path.open("rb") as file:
        architecture = elf_architecture(file.read(64))
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


def _from_wheels(wheels: tuple[_Wheel, ...], progress: Callable[[str], None]) -> list[Path]:
    """The libraries in `wheels`, unpacked once into the cache."""
    for wheel in wheels:
        if metadata.version(wheel.package) != wheel.version:
            raise BundleError(
                f"no aarch64 runtime is known for {wheel.package} {metadata.version(wheel.package)}",
                valid=f"{wheel.package} {wheel.version}",
            )

    def make(folder: Path) -> None:
        progress("fetching TVM's aarch64 runtime, once: 100 MB")
        with TemporaryFolder() as downloads:
            for path, wheel in zip(_download(wheels, downloads), wheels, strict=True):
                with zipfile.ZipFile(path) as archive:
                    (folder / Path(wheel.member).name).write_bytes(archive.read(wheel.member))

    folder = cached(_wheels_name(wheels), make)
    return [folder / Path(wheel.member).name for wheel in wheels]


def _from_sources(target: Target, progress: Callable[[str], None]) -> list[Path]:
    """The libraries compiled for `target`, once."""
    toolchain = find_toolchain(target, cplusplus=True)
    packages = _installed("tvm"), _installed("tvm_ffi")

    def make(folder: Path) -> None:
        progress(f"compiling TVM's runtime for {target.architecture}, once: minutes")
        runtime_sources.build_runtime(toolchain, *packages, folder)
        shutil.rmtree(folder / "objects")

    folder = cached(_sources_name(target, toolchain), make)
    return [folder / name for name in LIBRARIES]


def _wheels_name(wheels: tuple[_Wheel, ...]) -> str:
    return "-".join(["runtime-aarch64", *(wheel.sha256[:12] for wheel in wheels)])


def _sources_name(target: Target, toolchain: Toolchain) -> str:
    versions = " ".join(f"{wheel.package} {metadata.version(wheel.package)}" for wheel in _AARCH64_WHEELS)
    return f"runtime-{target.architecture}-{key_of([runtime_sources.recipe(toolchain), versions.encode()])}"


def _download(wheels: tuple[_Wheel, ...], folder: Path) -> list[Path]:
    """Let pip fetch the `wheels` into `folder`, by its own settings (index, proxy, find-links)."""
    options = ["--no-deps", "--only-binary=:all:", "--platform", "manylinux_2_28_aarch64"]
    options += ["--python-version", "3.11"]
    names = [f"{wheel.package}=={wheel.version}" for wheel in wheels]
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
            f"cannot download TVM's aarch64 runtime (100 MB, once): {lines[-1]}",
            next_command=f"pip download {' '.join(options)} -d DIR {' '.join(names)}, where there is a "
            "network, then PIP_FIND_LINKS=DIR aqd-deploy package PROGRAM.so -o BUNDLE",
        )
    return [_verified(folder, wheel) for wheel in wheels]


def _verified(folder: Path, wheel: _Wheel) -> Path:
    found = sorted(folder.glob(f"{wheel.package.replace('-', '_')}-{wheel.version}-*.whl"))
    if len(found) != 1:
        raise BundleError(f"pip downloaded no wheel of {wheel.package}", received=[p.name for p in found])
    with found[0].open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != wheel.sha256:
        raise BundleError(
            f"{found[0].name} is not the published wheel", received=f"SHA-256 {digest}", valid=wheel.sha256
        )
    return found[0]
