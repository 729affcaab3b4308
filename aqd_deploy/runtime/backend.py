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


@functools.cache
def tvm_version() -> str:
    """Version of the installed TVM package, which fixes the layout of compiled programs."""
    return metadata.version("apache-tvm")


@functools.cache
def ffi() -> ModuleType:
    """The `tvm_ffi` package with the TVM runtime loaded. Raises ProgramError where it is missing."""
    # TVM counts half of the hardware threads on x86; it also pins the caller's thread to a core unless told
    # not to.
    os.environ.setdefault("TVM_NUM_THREADS", str(available_threads()))
    os.environ.setdefault("TVM_BIND_THREADS", "0")
    with _torch_hidden():
        import tvm_ffi
    if "tvm" not in sys.modules:
        spec = importlib.util.find_spec("tvm")
        if spec is None or not spec.submodule_search_locations:
            raise ProgramError("the TVM runtime is not installed", next_command="pip install aqd-deploy")
        library = Path(spec.submodule_search_locations[0]) / "lib" / "libtvm_runtime.so"
        ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    return tvm_ffi


def set_threads(threads: int) -> None:
    """Let parallel loops use `threads` workers from now on, process-wide."""
    ffi().get_global_func("runtime.config_threadpool")(_MODE_BIG, threads)


def load_vm(path: Path) -> Any:
    """Load the shared library at `path` and return its Relax virtual machine, initialised for the CPU.

    Raises ProgramError where the dynamic linker or the runtime refuses it.
    """
    try:
        # Absolute: the dynamic linker looks a bare name up in the system's folders.
        machine = ffi().load_module(str(path.resolve()))["vm_load_executable"]()
    except (RuntimeError, AttributeError) as error:
        raise ProgramError(f"cannot load the program {path}", received=str(error).splitlines()[-1]) from error
    cpu_device, pooled_allocator = 1, 2
    machine["vm_initialization"](cpu_device, 0, pooled_allocator)
    return machine


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
