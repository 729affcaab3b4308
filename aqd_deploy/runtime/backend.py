"""The TVM runtime, loaded without the compiler and without torch.

`import tvm_ffi` imports torch where torch is installed (2-3 s), so torch is hidden while it is imported.
The runtime proper is one shared library of the TVM wheel, found without importing the `tvm` package.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from aqd_deploy.errors import ProgramError
from aqd_deploy.targets.cpu import available_threads

# TVM's affinity mode kBig; without binding it only sets how many workers share a loop.
_MODE_BIG = 1
_CPU, _POOLED_ALLOCATOR = 1, 2
# Importing hides torch for a while, which two threads must not do at once.
_importing = threading.Lock()


@functools.cache
def tvm_version() -> str:
    """Version of the installed TVM package, which fixes the layout of compiled programs."""
    return metadata.version("apache-tvm")


def is_loaded() -> bool:
    """Whether `ffi` returns at once."""
    return ffi.cache_info().currsize > 0


@functools.cache
def ffi() -> ModuleType:
    """The `tvm_ffi` package with the TVM runtime loaded. Raises ProgramError where it is missing."""
    # TVM counts half of the hardware threads on x86; it also pins the caller's thread to a core unless told
    # not to.
    os.environ.setdefault("TVM_NUM_THREADS", str(available_threads()))
    os.environ.setdefault("TVM_BIND_THREADS", "0")
    with _importing:
        with _torch_hidden():
            import tvm_ffi
        if "tvm" not in sys.modules:
            ctypes.CDLL(str(_runtime_library()), ctypes.RTLD_GLOBAL)
    return tvm_ffi


def _runtime_library() -> Path:
    spec = importlib.util.find_spec("tvm")
    if spec is None or not spec.submodule_search_locations:
        raise ProgramError("the TVM runtime is not installed", next_command="pip install aqd-deploy")
    return Path(spec.submodule_search_locations[0]) / "lib" / "libtvm_runtime.so"


def start_workers(threads: int) -> None:
    """Give the calling thread, for good, the workers that parallel loops of `threads` threads need."""
    # The CPUs are only counted in this mode; without the list there were workers for every CPU.
    ffi().get_global_func("runtime.config_threadpool")(_MODE_BIG, threads, ["0"] * threads)


@contextmanager
def one_thread() -> Iterator[None]:
    """While it is open, parallel loops of the calling thread run in this thread alone: it gets no
    workers, and those that it may have do nothing.
    """
    before = _threading("14MaxConcurrencyEv")()
    _threading("17SetMaxConcurrencyEi")(1)
    try:
        yield
    finally:
        _threading("17SetMaxConcurrencyEi")(before)


@functools.cache
def _threading(function: str) -> Any:
    """A function of `tvm::runtime::threading`, about the calling thread. TVM exports it to C++ only, by its
    mangled name.
    """
    ffi()
    return getattr(ctypes.CDLL(str(_runtime_library())), f"_ZN3tvm7runtime9threading{function}")


def new_machine(library: Any) -> Any:
    """A Relax virtual machine of the program in the module `library`, initialised for the CPU. It serves one
    call at a time.
    """
    machine = library["vm_load_executable"]()
    machine["vm_initialization"](_CPU, 0, _POOLED_ALLOCATOR)
    return machine


def free_unused_memory() -> None:
    """Give back to the system what tensors of all programs left to TVM's pool."""
    ffi().get_global_func("vm.builtin.memory_manager.clear")()


@contextmanager
def _torch_hidden() -> Iterator[None]:
    if "torch" in sys.modules or "tvm_ffi" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["torch"]
