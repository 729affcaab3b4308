"""A compiled program: verified, loaded, run and timed, with numpy arrays under the integer ONNX's names."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from aqd_deploy.errors import ProgramError
from aqd_deploy.runtime import backend
from aqd_deploy.runtime.container import Container, read_container
from aqd_deploy.runtime.tensors import TensorInfo, checked_inputs, random_inputs
from aqd_deploy.targets.cpu import Cpu, available_threads, read_cpu

# The TVM runtime's own allocations have this alignment, and generated code relies on it.
_ALIGNMENT = 64


class Program:
    """A loaded program. Make one with `Program.load`; `run` is not thread-safe."""

    def __init__(self, container: Container, threads: int | None = None) -> None:
        self.manifest: dict[str, Any] = container.manifest
        program = container.manifest["program"]
        self.inputs = TensorInfo.from_manifest(program["inputs"])
        self.outputs = TensorInfo.from_manifest(program["outputs"])
        self.threads = threads or program.get("threads") or available_threads()
        self._set_threads()
        started = time.perf_counter()
        machine = backend.load_vm(container.path)
        self._main = machine["main"]
        self._prepared = list(machine["prepare"]())
        self.load_seconds = time.perf_counter() - started
        self._machine = machine

    @classmethod
    def load(cls, path: str | os.PathLike[str], threads: int | None = None) -> Program:
        """Verify and load the program at `path`, to run with `threads` threads (default: as compiled, or
        all).

        Raises ProgramError where the file is missing, damaged, not one of our programs, of another version,
        or for another CPU. Nothing of the file is executed before all of that is checked.
        """
        if threads is not None and threads < 1:
            raise ProgramError("threads must be at least 1", received=threads)
        container = read_container(path)
        check_runnable(container)
        return cls(container, threads)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once. `inputs` maps every input's name to an array of exactly its shape and dtype.

        Returns every output by name, int32 [1, C, H, W] for head maps. Raises ShapeError for a missing or
        unknown name, another shape or another dtype, ProgramError where the code refuses what its manifest
        names.
        """
        arguments = self._arguments(inputs)
        self._set_threads()
        try:
            results = self._main(*arguments, *self._prepared)
        except RuntimeError as error:
            raise self._unlike_manifest(str(error).splitlines()[0]) from error
        if len(results) != len(self.outputs):
            raise self._unlike_manifest(f"{len(results)} outputs")
        return {info.name: np.from_dlpack(value) for info, value in zip(self.outputs, results, strict=True)}

    def time(
        self, repeats: int = 10, warmup: int = 2, inputs: Mapping[str, np.ndarray] | None = None
    ) -> list[float]:
        """Seconds of each of `repeats` runs after `warmup` unmeasured ones; `random_inputs` by default."""
        if inputs is None:
            inputs = self.random_inputs()
        arguments = [*self._arguments(inputs), *self._prepared]
        self._set_threads()
        for _ in range(warmup):
            self._main(*arguments)
        seconds = []
        for _ in range(repeats):
            started = time.perf_counter()
            self._main(*arguments)
            seconds.append(time.perf_counter() - started)
        return seconds

    def profile(self, repeats: int = 5) -> list[tuple[str, float]]:
        """(name, seconds) of every kernel call of `main` in order, the best of `repeats` runs.

        Names are those of the manifest's layers.
        """
        arguments = [*self._arguments(self.random_inputs()), *self._prepared]
        self._set_threads()
        names = [layer["name"] for layer in self.manifest["program"]["layers"]]
        runs = []
        for _ in range(repeats):
            clock = _CallClock()
            self._machine["set_instrument"](clock)
            self._main(*arguments)
            runs.append(clock.seconds)
        self._machine["set_instrument"](None)
        return list(zip(names, (min(calls) for calls in zip(*runs, strict=True)), strict=True))

    def random_inputs(self, seed: int = 0) -> dict[str, np.ndarray]:
        """Uniform pseudo-random values over the whole range of each input's dtype."""
        return random_inputs(self.inputs, seed)

    def _unlike_manifest(self, received: str) -> ProgramError:
        """Undamaged, with the hashes right, and yet the code is not what the manifest describes."""
        return ProgramError(
            "the program does not run with the inputs and outputs that its manifest names",
            received=received[:200],
            next_command="aqd-deploy compile MODEL.onnx -o PROGRAM.so",
        )

    def _set_threads(self) -> None:
        backend.set_threads(min(self.threads, available_threads()))

    def _arguments(self, inputs: Mapping[str, np.ndarray]) -> list[Any]:
        from_dlpack = backend.ffi().from_dlpack
        return [from_dlpack(_aligned(array)) for array in checked_inputs(self.inputs, inputs)]


class _CallClock:
    """A virtual machine instrument that times every call of a kernel."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._started = 0.0

    def __call__(self, _function: Any, symbol: str, before: bool, *_: Any) -> int:
        if not symbol.startswith("vm.builtin."):
            if before:
                self._started = time.perf_counter()
            else:
                self.seconds.append(time.perf_counter() - self._started)
        return 0


def check_runnable(container: Container, cpu: Cpu | None = None) -> None:
    """Raise ProgramError unless the program is for the installed TVM and for `cpu` (default: this one)."""
    cpu = cpu or read_cpu()
    program = container.manifest.get("program", {})
    recompile = "aqd-deploy compile MODEL.onnx --target host -o PROGRAM.so"
    if program.get("tvm_version") != backend.tvm_version():
        raise ProgramError(
            f"{container.path} is a program of another version",
            received=f"TVM {program.get('tvm_version')}",
            valid=f"TVM {backend.tvm_version()}",
            next_command=recompile,
        )
    architecture = program["target"]["architecture"]
    if architecture != cpu.architecture:
        raise ProgramError(
            f"{container.path} is for another CPU than this one",
            received=f"a program for {architecture}",
            valid=cpu.architecture,
            next_command=f"{recompile}, or the same command with --device qemu",
        )
    missing = sorted(set(program["target"]["features"]) - cpu.features)
    if missing:
        raise ProgramError(
            f"{container.path} is for another CPU than this one: {cpu.model} lacks {', '.join(missing)}",
            received=f"a program for {program['target']['name']}",
            next_command=recompile,
        )


def _aligned(array: np.ndarray) -> np.ndarray:
    """`array` itself where it is contiguous, writable (DLPack wants it) and aligned; otherwise a copy."""
    if array.flags.c_contiguous and array.flags.writeable and array.ctypes.data % _ALIGNMENT == 0:
        return array
    storage = np.empty(array.nbytes + _ALIGNMENT, np.uint8)
    offset = -storage.ctypes.data % _ALIGNMENT
    copy = storage[offset : offset + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy
