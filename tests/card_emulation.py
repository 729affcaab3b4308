"""Programs for cards on a CPU: the same source and the same launches, by g++ and `card_native/emulation.h`.

What it takes of a card: blocks run one after the other, threads as fibers that meet at barriers. Two settings
make races show: the order of threads between barriers, and asynchronous copies that happen as late as they
may.
"""

from __future__ import annotations

import ctypes
import functools
import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from needs import need

from aqd_deploy.compiler.launch_section import functions_of, launch_section
from aqd_deploy.compiler.launches import BuiltLaunches, build_launches
from aqd_deploy.compiler.nvcc import CudaCompiler
from aqd_deploy.compiler.plan import Plan
from aqd_deploy.kernels.contract.launches import Function
from aqd_deploy.kernels.cuda.backend import CudaBackend
from aqd_deploy.runtime.card_program import CardProgram
from aqd_deploy.runtime.container import Container
from aqd_deploy.runtime.launches import Call

EMULATION = Path(__file__).parent / "card_native"
_KERNEL = re.compile(r" k(\d+)\(AQD_PARAM (.+?) p\)")
_MAGIC = b"\x7fELF of source: "
# (order of threads, copies late)
SETTINGS = ((0, False), (1, True))


def build(functions: Sequence[Function], folder: Path, *flags: str) -> ctypes.CDLL:
    """The library of `functions`, with `aqd_emulate`."""
    loaded = ctypes.CDLL(str(write_library(functions, folder, "g++", *flags)))
    loaded.aqd_emulate.restype = ctypes.c_bool
    return loaded


def write_library(functions: Sequence[Function], folder: Path, compiler: str, *flags: str) -> Path:
    """The file of the library, by a C++ compiler."""
    return write_library_of(CudaBackend("sm_90a").source(functions), folder, compiler, *flags)


def write_library_of(generated: str, folder: Path, compiler: str, *flags: str) -> Path:
    """The same of the generated source."""
    need(compiler)
    _write_source(generated, folder)
    library = folder / "kernels.so"
    command = [compiler, "-std=c++17", "-O1", "-w", "-shared", "-fPIC", f"-I{EMULATION}", *flags]
    result = subprocess.run(
        [*command, "kernels.cpp", "-o", library], cwd=folder, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[:3000]
    return library


def write_kernels(functions: Sequence[Function], folder: Path, more: str = "") -> None:
    """`kernels.cpp` and what it includes: the functions, `aqd_emulate`, and `more` C++."""
    _write_source(CudaBackend("sm_90a").source(functions), folder, more)


def _write_source(generated: str, folder: Path, more: str = "") -> None:
    for name, text in CudaBackend("sm_90a").sources().items():
        (folder / name).write_text(text)
    cases = "\n".join(
        f"    case {index}: {{ const {parameter} p = *(const {parameter} *)parameter; "
        f"return aqd::emulate(grid, threads, shared, [&] {{ k{index}(p); }}); }}"
        for index, parameter in _KERNEL.findall(generated)
    )
    source = (
        generated
        + f"""
extern "C" bool aqd_emulate(int function, int blocks, int threads, int shared, const void *parameter,
                            int order, bool late) {{
  aqd::settings.order = order;
  aqd::settings.late = late;
  dim3 grid;
  grid.x = blocks;
  switch (function) {{
{cases}
  }}
  return false;
}}
"""
    )
    (folder / "kernels.cpp").write_text(source + more)


class EmulatedDriver:
    """A `card_program.Driver`; memory is an array of this process."""

    def __init__(self, library: ctypes.CDLL, order: int = 0, late: bool = False) -> None:
        self.library, self.order, self.late = library, order, late
        self.memory = np.zeros(0, np.uint8)

    def load(self, code: memoryview, functions: Sequence[str], target: Mapping[str, Any]) -> None:
        """The code is the library's."""

    def allocate(self, size: int) -> int:
        self.memory = np.zeros(size + 256, np.uint8)
        return -(-self.memory.ctypes.data // 256) * 256

    def upload(self, address: int, data: np.ndarray | memoryview) -> None:
        flat = np.frombuffer(data, np.uint8) if isinstance(data, memoryview) else data
        ctypes.memmove(address, flat.ctypes.data, flat.nbytes)

    def download(self, address: int, data: np.ndarray) -> None:
        ctypes.memmove(data.ctypes.data, address, data.nbytes)

    def record(self, calls: Sequence[Call], base: int) -> Callable[[], float]:
        def replay() -> float:
            for call in calls:
                parameter = ctypes.create_string_buffer(call.parameter(base))
                numbers = (call.function, call.grid, call.threads, call.shared)
                done = self.library.aqd_emulate(*numbers, parameter, self.order, self.late)
                assert done, f"function {call.function} is stuck"
            return 0.0

        return replay

    def close(self) -> None:
        self.memory = np.zeros(0, np.uint8)


class SourceCompiler(CudaCompiler):
    """Keeps the source in the place of a cubin, for `SourceDriver`."""

    def __init__(self) -> None:
        super().__init__("none", "path")

    def version(self) -> str:
        return "13.0"

    def compile(self, source: str, included: Mapping[str, str], card: str, folder: Path) -> tuple[bytes, str]:
        return _MAGIC + source.encode(), ""


@functools.cache
def _library_of(source: str) -> ctypes.CDLL:
    """The library of a generated source, which takes seconds to compile."""
    with tempfile.TemporaryDirectory() as folder:
        loaded = ctypes.CDLL(str(write_library_of(source, Path(folder), "g++")))
    loaded.aqd_emulate.restype = ctypes.c_bool
    return loaded


class SourceDriver(EmulatedDriver):
    """Runs what `SourceCompiler` kept; equal calls in a row once. A call takes as many microseconds as `cost`
    tells of the function's line.
    """

    def __init__(self, cost: Callable[[str], float]) -> None:
        super().__init__(ctypes.CDLL(None))
        self.cost = cost
        self.lines: list[str] = []

    def load(self, code: memoryview, functions: Sequence[str], target: Mapping[str, Any]) -> None:
        source = bytes(code).removeprefix(_MAGIC).rstrip(b"\0").decode()
        self.lines = [line for line in source.splitlines() if _KERNEL.search(line)]
        self.library = _library_of(source)

    def record(self, calls: Sequence[Call], base: int) -> Callable[[], float]:
        replay = super().record(list(dict.fromkeys(calls)), base)
        seconds = sum(self.cost(self.lines[call.function]) for call in calls) / 1e6

        def timed() -> float:
            replay()
            return seconds

        return timed


def container_of(plan: Plan, built: BuiltLaunches, images: int = 1) -> Container:
    """What a program's file would hold, but for the code."""
    ports = [
        [
            {"name": name, "shape": [images, *info.nchw[1:]], "dtype": info.dtype}
            for name, info in ((name, plan.tensors[name]) for name in names)
        ]
        for names in (plan.inputs, plan.outputs)
    ]
    section = launch_section(built, 0, plan.inputs, plan.outputs)
    program = {"target": {"card": "sm_90a"}, "launches": section, "inputs": ports[0], "outputs": ports[1]}
    stored = built.data.content()
    return Container(Path("program.so"), {"program": program}, stored, len(stored))


def emulated(
    plan: Plan, folder: Path, images: int = 1, setting: tuple[int, bool] = SETTINGS[0], card: str = "sm_90a"
) -> CardProgram:
    """The program of `plan` for `card`, loaded into the emulation; `folder` for its source."""
    built = build_launches(plan, CudaBackend(card), images)
    library = build(functions_of(built), folder)
    return CardProgram(container_of(plan, built, images), EmulatedDriver(library, *setting))
