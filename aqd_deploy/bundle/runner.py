"""`aqd-run`, the native runner: compiled from `native/` for the architecture of a program, and kept."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from importlib import resources
from pathlib import Path

from aqd_deploy import processes
from aqd_deploy.bundle.cache import cached, key_of
from aqd_deploy.compiler.toolchain import find_portable_toolchain
from aqd_deploy.errors import MissingExtraError
from aqd_deploy.runtime.bundle_files import RUNNER
from aqd_deploy.targets import Target

RUNNER_FLAGS = (
    "-std=c++17", "-O2", "-Wall", "-Wextra", "-Wno-psabi", "-ffunction-sections", "-Wl,--gc-sections", "-s",
    "-pthread",
    # The device's own libstdc++ may be older than the compiler's.
    "-static-libstdc++", "-static-libgcc",
)  # fmt: skip


def build_runner(target: Target, progress: Callable[[str], None] = lambda _: None) -> Path:
    """The runner for `target`, from the cache or compiled (seconds).

    Raises MissingExtraError where there is no compiler for the target, ToolchainError where it fails,
    BundleError where the cache cannot be written.
    """
    toolchain = find_portable_toolchain(target)
    sources = _sources()
    include = _ffi_include()
    headers = [include / "tvm" / "ffi" / "c_api.h", include / "dlpack" / "dlpack.h"]
    key = key_of(
        [
            *(path.read_bytes() for path in (*sources, *headers)),
            " ".join([*toolchain.command, *RUNNER_FLAGS, target.architecture]).encode(),
            _version(toolchain.command),
        ]
    )

    def make(folder: Path) -> None:
        progress(f"compiling the runner, once: {'minutes' if toolchain.origin == 'zig' else 'seconds'}")
        code = [path for path in sources if path.suffix == ".cc"]
        toolchain.compile(code, folder / RUNNER, [*RUNNER_FLAGS, "-isystem", str(include)])

    return cached(f"runner-{key}", make) / RUNNER


def _sources() -> list[Path]:
    folder = Path(str(resources.files("aqd_deploy.bundle") / "native"))
    return sorted(path for path in folder.iterdir() if path.suffix in (".cc", ".h"))


def _ffi_include() -> Path:
    """The headers of tvm_ffi, found without importing it."""
    spec = importlib.util.find_spec("tvm_ffi")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError("the TVM runtime is not installed", next_command="pip install aqd-deploy")
    return Path(spec.submodule_search_locations[0]) / "include"


def _version(command: tuple[str, ...]) -> bytes:
    """What the compiler says of itself: another version makes another runner."""
    return processes.run([*command, "--version"]).stdout.encode()
