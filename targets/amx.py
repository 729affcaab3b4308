"""Asks the kernel to let this process use AMX.

Tile registers take 8 KiB of every thread's state, so Linux hands them out on request, for a whole process and
for good. Without it the first tile instruction ends the process, whatever /proc/cpuinfo says.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os

FEATURES = ("amx_tile", "amx_int8", "amx_bf16", "amx_fp16")
# What `syscall` takes: arch_prctl, ARCH_REQ_XCOMP_PERM, the tiles' data.
REQUEST = (158, 0x1023, 18)
# The profile whose programs run where AMX is refused: every CPU that has it satisfies this one.
INSTEAD = "cascadelake"


@functools.cache
def refusal() -> str:
    """Why this process may not use AMX, "" where it may. For x86-64 with Linux."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syscall(*REQUEST) == 0:
            return ""
    except (OSError, AttributeError) as error:
        return f"the kernel could not be asked ({error})"
    code = ctypes.get_errno()
    if code == errno.ENOSPC:
        return "a thread's signal stack has no room for the tile registers"
    return f"the kernel refused ({os.strerror(code)})"
