"""CUDA's compiler: found in `CUDA_PATH`, on the path, or in the packages of the extra `cuda`.

TVM is not asked to compile CUDA: where there is no driver it makes nothing and reports no error.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from aqd_deploy import processes
from aqd_deploy.errors import MissingExtraError, ToolchainError, line_of
from aqd_deploy.files import told_failure

_VARIABLE = "CUDA_PATH"
_SHOWN_STDERR = 500
_FLAGS = ("-cubin", "-std=c++17", "-Xptxas", "-v")


@dataclass(frozen=True)
class CudaCompiler:
    """The path of nvcc and where it was found (`CUDA_PATH`, `path` or `package`)."""

    command: str
    origin: str

    def __str__(self) -> str:
        return self.command

    def version(self) -> str:
        """CUDA's, for example "13.0". Raises ToolchainError where nvcc does not tell it."""
        result = processes.run([self.command, "--version"])
        match = re.search(r"release (\d+\.\d+)", result.stdout)
        if match is None:
            raise ToolchainError(
                f"{self.command} tells no version", received=result.stderr.strip()[-200:] or None
            )
        return match[1]

    def compile(self, source: str, included: Mapping[str, str], card: str, folder: Path) -> tuple[bytes, str]:
        """The cubin for `card` of C++ `source`, which includes files of `included`, and what the assembler
        told of registers and memory of each function. Files are written to `folder`.

        Raises ToolchainError where nvcc fails, StorageError where it cannot write the folder.
        """
        for name, text in {**included, "kernels.cu": source}.items():
            (folder / name).write_text(text, encoding="utf-8")
        # By short names: the paths of this machine are not in what it makes.
        command = [self.command, f"-arch={card}", *_FLAGS, "kernels.cu", "-o", "kernels.cubin"]
        result = processes.run(command, temporary=folder, cwd=folder)
        if result.returncode:
            full = told_failure(result.stderr, folder)
            if full is not None:
                raise full
            told = f"{result.stdout}{result.stderr}".strip()[-_SHOWN_STDERR:]
            raise ToolchainError(f"{self.command} failed", received=told or f"exit code {result.returncode}")
        return (folder / "kernels.cubin").read_bytes(), result.stderr


def find_cuda_compiler() -> CudaCompiler:
    """CUDA's compiler. Raises MissingExtraError where none is installed."""
    found = find_cuda_tool("nvcc")
    if found is not None:
        return CudaCompiler(*found)
    raise MissingExtraError(
        "no CUDA compiler is installed, which programs for cards need",
        valid=f"nvcc in the folder that {_VARIABLE} names, on the path, or of the extra cuda",
        next_command="pip install 'aqd-deploy[cuda]'",
    )


def find_cuda_tool(name: str) -> tuple[str, str] | None:
    """The path of a tool of CUDA's toolkit, and what led to it; None where there is none."""
    for path, origin in _places():
        found = shutil.which(name, path=path)
        if found is not None:
            return found, origin
    return None


def _places() -> Iterator[tuple[str, str]]:
    """Folders in which nvcc may be, the first to take first."""
    if named := os.environ.get(_VARIABLE):
        yield str(Path(named) / "bin"), _VARIABLE
    yield os.environ.get("PATH", os.defpath), "path"
    spec = importlib.util.find_spec("nvidia")
    for package in spec.submodule_search_locations or [] if spec else []:
        for folder in sorted(Path(package).glob("cu*/bin"), reverse=True):
            yield str(folder), "package"


def told_version(compiler: CudaCompiler) -> str:
    """For people."""
    try:
        return f"{compiler} (CUDA {compiler.version()}, {compiler.origin})"
    except ToolchainError as error:
        return f"{compiler} ({line_of(error)})"
