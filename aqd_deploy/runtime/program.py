"""A compiled program: verified, loaded, run and timed, with numpy arrays under the integer ONNX's names."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from aqd_deploy.errors import ProgramError, line_of
from aqd_deploy.runtime import backend, lanes
from aqd_deploy.runtime.container import Container, read_container
from aqd_deploy.runtime.intermediates import ResultCopies
from aqd_deploy.runtime.launches import refuse_card
from aqd_deploy.runtime.library import load_library
from aqd_deploy.runtime.tensors import TensorInfo, checked_inputs, random_inputs
from aqd_deploy.targets import amx, architectures
from aqd_deploy.targets.cpu import Cpu, read_cpu
from aqd_deploy.targets.threads import thread_limits

# The TVM runtime's own allocations have this alignment, and generated code relies on it.
_ALIGNMENT = 64


class Program:
    """A loaded program. Make one with `Program.load`.

    All methods may be called from any number of threads at once, and in a process that was forked after the
    program was loaded. As many calls run side by side as the CPU has room for, each with `threads` threads;
    the others wait for their turn. A call that runs beside another takes `memory.bytes` of the manifest once
    more; the expanded weights are shared. The code is unloaded with the last reference to the program.
    """

    def __init__(self, container: Container, threads: int | None = None) -> None:
        self.manifest: dict[str, Any] = container.manifest
        program = container.manifest["program"]
        self.inputs = TensorInfo.from_manifest(program["inputs"])
        self.outputs = TensorInfo.from_manifest(program["outputs"])
        self.threads = self.used_threads(threads)
        # `main` of virtual machines that no call uses; taking one and giving it back are atomic.
        self._idle: list[Any] = []
        started = time.perf_counter()
        lanes.call(self.threads, self._load, container)
        self.load_seconds = time.perf_counter() - started

    @classmethod
    def load(cls, path: str | os.PathLike[str], threads: int | None = None) -> Program:
        """Verify and load the program at `path`, to run with `threads` threads (see `used_threads`; as many
        are in `threads` of the program).

        Raises ProgramError where the file is missing, damaged, not one of our programs, of another version,
        or for another CPU. Nothing of the file is executed before all of that is checked.
        """
        return cls.from_container(read_container(path), threads)

    @classmethod
    def from_container(cls, container: Container, threads: int | None = None) -> Program:
        """Load a program whose bytes are in memory, verified. Raises what `load` raises of a whole file."""
        if threads is not None and threads < 1:
            raise ProgramError("threads must be at least 1", received=threads)
        check_runnable(container)
        return cls(container, threads)

    def used_threads(self, asked: int | None = None) -> int:
        """How many threads a run uses for which `asked` are wanted (default: OMP_NUM_THREADS, or as
        compiled): at most those that it was compiled for, and that this process has use for.
        """
        limits = thread_limits()
        compiled = self.manifest["program"].get("threads") or limits.available
        return min(asked or limits.openmp or compiled, compiled, limits.available)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once. `inputs` maps every input's name to an array of exactly its shape and dtype.

        Returns every output by name, int32 [1, C, H, W] for head maps. Raises ShapeError for a missing or
        unknown name, another shape or another dtype, ProgramError where the code refuses what its manifest
        names, and in a process that was forked while its parent ran a program in another thread.
        """
        arrays = lanes.call(self.threads, self._run, checked_inputs(self.inputs, inputs))
        return {info.name: array for info, array in zip(self.outputs, arrays, strict=True)}

    def time(
        self, repeats: int = 10, warmup: int = 2, inputs: Mapping[str, np.ndarray] | None = None
    ) -> list[float]:
        """Seconds of each of `repeats` runs after `warmup` unmeasured ones; `random_inputs` by default.

        Raises what `run` raises.
        """
        if inputs is None:
            inputs = self.random_inputs()
        arrays = checked_inputs(self.inputs, inputs)
        arguments = lanes.call(self.threads, _tensors, arrays)
        seconds = [lanes.call(self.threads, self._timed, arguments) for _ in range(warmup + repeats)]
        return seconds[warmup:]

    def profile(self, repeats: int = 5) -> list[tuple[str, float]]:
        """(name, seconds) of every kernel call of `main` in order, the best of `repeats` runs.

        Names are those of the manifest's layers. Raises what `run` raises.
        """
        arguments = lanes.call(self.threads, _tensors, checked_inputs(self.inputs, self.random_inputs()))
        names = [layer["name"] for layer in self.manifest["program"].get("layers", [])]
        runs = [lanes.call(self.threads, self._profiled, arguments) for _ in range(repeats)]
        best = [min(calls) for calls in zip(*runs, strict=True)]
        if len(best) != len(names):
            raise self._unlike_manifest(f"{len(best)} calls of kernels for {len(names)} layers")
        return list(zip(names, best, strict=True))

    def intermediates(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once and return, by the names of the integer file, what kernels wrote: int [1, C, H, W].

        Tensors that were fused away are not among them, nor those that a kernel wrote over what it read.
        Raises what `run` raises, and ProgramError for a program that an older version compiled.
        """
        layers = self.manifest["program"].get("layers", [])
        if not any(layer.get("results") for layer in layers):
            raise ProgramError(
                "the program does not say which tensors its kernels write",
                received="a manifest of an older version",
                next_command="aqd-deploy compile MODEL.onnx -o PROGRAM.so",
            )
        copies = ResultCopies(layers)
        arguments = lanes.call(self.threads, _tensors, checked_inputs(self.inputs, inputs))
        lanes.call(self.threads, self._observed, arguments, copies)
        if copies.calls != len(layers):
            raise self._unlike_manifest(f"{copies.calls} calls of kernels for {len(layers)} layers")
        return copies.tensors

    def random_inputs(self, seed: int = 0) -> dict[str, np.ndarray]:
        """Uniform pseudo-random values over the whole range of each input's dtype."""
        return random_inputs(self.inputs, seed)

    def _unlike_manifest(self, received: str) -> ProgramError:
        """Undamaged, with the hashes right, and yet the code is not what the manifest describes."""
        return ProgramError(
            "the program does not run as its manifest describes it",
            received=received,
            next_command="aqd-deploy compile MODEL.onnx -o PROGRAM.so",
        )

    # Below is what lanes call.

    def _load(self, container: Container) -> None:
        library = load_library(container.library, container.path.name)
        machine = backend.new_machine(library)
        self._prepared = list(machine["prepare"]())
        self._library = library
        self._idle.append(machine["main"])

    def _run(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        results = self._called(_tensors(arrays))
        if len(results) != len(self.outputs):
            raise self._unlike_manifest(f"{len(results)} outputs")
        return [np.from_dlpack(tensor) for tensor in results]

    def _called(self, arguments: list[Any]) -> Any:
        try:
            main = self._idle.pop()
        except IndexError:
            main = backend.new_machine(self._library)["main"]
        results = self._passed(main, arguments)
        # Not in a `finally`: a machine whose call failed is not used again.
        self._idle.append(main)
        return results

    def _timed(self, arguments: list[Any]) -> float:
        started = time.perf_counter()
        self._called(arguments)
        return time.perf_counter() - started

    def _profiled(self, arguments: list[Any]) -> list[float]:
        clock = _CallClock()
        self._observed(arguments, clock)
        return clock.seconds

    def _observed(self, arguments: list[Any], instrument: Callable[..., int]) -> None:
        machine = backend.new_machine(self._library)
        machine["set_instrument"](instrument)
        self._passed(machine["main"], arguments)

    def _passed(self, main: Any, arguments: list[Any]) -> Any:
        try:
            return main(*arguments, *self._prepared)
        except RuntimeError as error:
            if "bad_alloc" in str(error):
                raise MemoryError from error
            raise self._unlike_manifest(line_of(error)) from error

    def __del__(self) -> None:
        if hasattr(self, "_library") and lanes.usable() and not sys.is_finalizing():
            # What the tensors held goes to TVM's pool first, and would wait there for tensors of their size.
            self.__dict__.clear()
            # Without a turn: this thread may have the last one.
            lanes.at_once(backend.free_unused_memory)


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
    refuse_card(container)
    cpu = cpu or read_cpu()
    program = container.manifest["program"]
    recompile = "aqd-deploy compile MODEL.onnx --target host -o PROGRAM.so"
    if program["tvm_version"] != backend.tvm_version():
        raise ProgramError(
            f"{container.path} is a program of another version",
            received=f"TVM {program['tvm_version']}",
            valid=f"TVM {backend.tvm_version()}",
            next_command=recompile,
        )
    architecture = program["target"]["architecture"]
    if architecture != cpu.architecture:
        known = architecture in architectures.emulated()
        emulated = ", or the same command with --device qemu" if known else ""
        raise ProgramError(
            f"{container.path} is for another CPU than this one",
            received=f"a program for {architecture}",
            valid=cpu.architecture,
            next_command=f"{recompile}{emulated}",
        )
    missing = cpu.lacks(program["target"]["features"])
    if cpu.withholds(missing):
        # Not `host`: another process of this machine may have what this one has not.
        raise ProgramError(
            f"{container.path} needs what this process may not use, {cpu.withheld}",
            received=f"a program for {program['target']['name']}",
            next_command=f"aqd-deploy compile MODEL.onnx --target {amx.INSTEAD} -o PROGRAM.so",
        )
    if missing:
        raise ProgramError(
            f"{container.path} is for another CPU than this one: {cpu.model} lacks {', '.join(missing)}",
            received=f"a program for {program['target']['name']}",
            next_command=recompile,
        )


def _tensors(arrays: list[np.ndarray]) -> list[Any]:
    from_dlpack = backend.ffi().from_dlpack
    return [from_dlpack(_aligned(array)) for array in arrays]


def _aligned(array: np.ndarray) -> np.ndarray:
    """`array` itself where it is contiguous, writable (DLPack wants it) and aligned; otherwise a copy."""
    if array.flags.c_contiguous and array.flags.writeable and array.ctypes.data % _ALIGNMENT == 0:
        return array
    storage = np.empty(array.nbytes + _ALIGNMENT, np.uint8)
    offset = -storage.ctypes.data % _ALIGNMENT
    copy = storage[offset : offset + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy
