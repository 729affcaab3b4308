"""Machine code loaded from bytes in memory: what was verified is what runs, whatever becomes of its file.

The dynamic linker answers with a library that it has where it is given that library's name, or a file with
its device and inode. So every load has a nameless copy of the bytes, a new inode, under a path that no other
load of this process was given. The linker holds the copy; its descriptor is closed at once, and the memory is
given back when the library is unloaded.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable
from typing import IO, Any

from aqd_deploy.errors import ProgramError, line_of
from aqd_deploy.files import temporary_root
from aqd_deploy.runtime import backend

_loads = itertools.count(1)


def load_library(code: memoryview, name: str) -> Any:
    """The TVM module in the shared library `code`, which is unloaded with the last reference to the module or
    to a function of it. `name` is what errors and /proc/self/maps call it.

    Raises ProgramError where the dynamic linker or the runtime refuses it.
    """
    # Not tvm_ffi.load_module: it tells the kind of a file by its suffix, and keeps all modules for ever.
    load = backend.ffi().get_global_func("ffi.Module.load_from_file.so")
    # A system may have no memory files, or forbid code in them; another may forbid it in temporary folders.
    copies: tuple[Callable[[str], IO[bytes]], ...] = (_memory_file, _temporary_file)
    for opened in copies:
        try:
            with opened(name) as copy:
                copy.write(code)
                copy.flush()
                return load(_fresh_path(copy.fileno()), "so")
        except (OSError, RuntimeError) as error:
            refusal = error
    raise ProgramError(
        f"cannot load the program {name}",
        received=line_of(refusal, -1),
        next_command=f"compile it again; where {temporary_root()} forbids to execute files, "
        "the same command with TMPDIR=FOLDER, one that allows it",
    ) from refusal


def _memory_file(name: str) -> IO[bytes]:
    if not hasattr(os, "memfd_create"):
        raise OSError("this system has no memory files")
    # The system takes names of 249 bytes.
    return os.fdopen(os.memfd_create(name[:60]), "wb")


def _temporary_file(_: str) -> IO[bytes]:
    return tempfile.TemporaryFile(dir=temporary_root())


def _fresh_path(descriptor: int) -> str:
    """A path of the open file that no earlier call returned, although descriptors are used again: the number
    of this call, in binary, is spelled in `/` and `./`, which mean nothing in a path.
    """
    number = f"{next(_loads):b}".replace("0", "/").replace("1", "./")
    return f"/proc/self/fd/{number}{descriptor}"
