"""TVM's runtime libraries, cross-compiled from the C++ sources that the installed packages carry.

For architectures without published wheels. Only what a program needs is compiled: the FFI, tensors, the
thread pool and the Relax virtual machine. `native/runtime/tvm_support.h` stands in for the headers of TVM's
`support` folder, which the packages lack.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import resources
from pathlib import Path

from aqd_deploy.compiler.toolchain import Toolchain
from aqd_deploy.targets.architectures import Sources

_FFI = (
    "backtrace", "container", "custom_allocator", "dtype", "error", "function", "init_once", "object",
    "tensor", "extra/env_c_api", "extra/env_context", "extra/json_parser", "extra/json_writer",
    "extra/library_module", "extra/library_module_dynamic_lib", "extra/library_module_system_lib",
    "extra/module",
)  # fmt: skip
_RUNTIME = (
    "cpu_device_api", "device_api", "file_utils", "logging", "module", "tensor", "thread_pool",
    "threading_backend", "timer", "workspace_pool", "memory/memory_manager", "vm/builtin", "vm/bytecode",
    "vm/executable", "vm/vm",
)  # fmt: skip
_SUPPORT = (
    "include/tvm/support/io.h", "include/tvm/support/serializer.h", "include/tvm/support/cuda/nvtx.h",
    "support/bytes_io.h", "support/base64.h", "support/utils.h",
)  # fmt: skip
_FLAGS = (
    "-std=c++17", "-O2", "-DNDEBUG", "-fPIC", "-pthread", "-ffunction-sections", "-fdata-sections",
    "-DTVM_FFI_USE_LIBBACKTRACE=0", "-DTVM_FFI_EXPORTS", "-DTVM_RUNTIME_EXPORTS",
)  # fmt: skip
_LINK = ("-pthread", "-ldl", "-Wl,--gc-sections")
# What the libraries call the folders of their sources, so that they do not tell where those lay.
_TVM, _FFI_FOLDER, _OURS = "tvm", "tvm_ffi", "aqd_deploy"


def support_header() -> Path:
    """The header that stands in for TVM's `support` folder."""
    return Path(str(resources.files("aqd_deploy.bundle") / "native" / "runtime" / "tvm_support.h"))


def recipe(toolchain: Toolchain, origin: Sources) -> bytes:
    """What else than the packages' versions decides about the libraries: key of a cache."""
    names = (_TVM, _FFI_FOLDER, _OURS)
    flags = (*toolchain.command, *_FLAGS, *_cpu_flags(toolchain, origin), *_LINK, *_FFI, *_RUNTIME, *names)
    return "\n".join(flags).encode() + support_header().read_bytes()


def _cpu_flags(toolchain: Toolchain, origin: Sources) -> tuple[str, ...]:
    """What GCC must be told of the architecture; zig's command line has it."""
    return () if toolchain.origin == "zig" else origin.flags


def build_runtime(toolchain: Toolchain, origin: Sources, tvm: Path, ffi: Path, folder: Path) -> None:
    """Compile `libtvm_ffi.so` and `libtvm_runtime.so` into `folder` (minutes).

    `tvm` and `ffi` are the folders of the installed packages. Raises ToolchainError where the compiler fails.
    """
    # C++, so not by the command that links programs.
    toolchain = replace(toolchain, link_command=())
    work = folder / "objects"
    headers = _support_headers(work)
    flags = [*_FLAGS, *_cpu_flags(toolchain, origin), "-I", str(headers / "include")]
    flags += ["-I", str(tvm / "include"), "-I", str(ffi / "include")]
    renamed = {tvm: _TVM, ffi: _FFI_FOLDER, support_header().parent: _OURS, work: _OURS}
    flags += [f"-ffile-prefix-map={place}={name}" for place, name in renamed.items()]
    # So that "../support/x.h" and "../../support/x.h" are found in `headers`.
    flags += ["-iquote", str(headers / "runtime"), "-iquote", str(headers / "runtime" / "vm")]
    sources = [ffi / "src" / "ffi" / f"{name}.cc" for name in _FFI]
    objects = _compile(toolchain, sources, work / "ffi", flags)
    options = ["-Wl,-soname,libtvm_ffi.so", *_LINK]
    toolchain.link(str(folder / "libtvm_ffi.so"), list(map(str, objects)), options)
    sources = [tvm / "src" / "runtime" / f"{name}.cc" for name in _RUNTIME]
    objects = _compile(toolchain, sources, work / "runtime", flags)
    options = ["-Wl,-soname,libtvm_runtime.so", "-L", str(folder), "-ltvm_ffi", *_LINK]
    toolchain.link(str(folder / "libtvm_runtime.so"), list(map(str, objects)), options)


def _support_headers(work: Path) -> Path:
    """A tree in which every header of TVM's `support` folder is ours."""
    tree = work / "headers"
    (tree / "runtime" / "vm").mkdir(parents=True)
    for name in _SUPPORT:
        header = tree / name
        header.parent.mkdir(parents=True, exist_ok=True)
        header.write_text(f'#include "{support_header()}"\n', encoding="utf-8")
    return tree


def _compile(toolchain: Toolchain, sources: Sequence[Path], folder: Path, flags: list[str]) -> list[Path]:
    """Objects of `sources`, as many at a time as there are cores."""
    folder.mkdir(parents=True)
    objects = [folder / f"{path.stem}.o" for path in sources]

    def compile_one(pair: tuple[Path, Path]) -> None:
        toolchain.compile([pair[0]], pair[1], ["-c", *flags])

    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        list(pool.map(compile_one, zip(sources, objects, strict=True)))
    finally:
        pool.shutdown(cancel_futures=True)
    return objects
