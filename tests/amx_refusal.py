"""Processes to which the kernel refuses AMX, on a CPU that has it.

A filter of system calls answers the request with EPERM: for the process that sets it, and for all that it
starts, whatever they execute. x86-64 with Linux.
"""

from __future__ import annotations

import ctypes
import errno

import pytest

from aqd_deploy.targets import amx
from aqd_deploy.targets.cpu import read_cpu

needs_amx = pytest.mark.skipif(
    not {"amx_tile", "amx_int8"} <= read_cpu().features, reason="this machine has no AMX"
)
# How `withheld` tells it.
WITHHELD = "AMX: the kernel refused (Operation not permitted)"
_NO_NEW_PRIVILEGES, _SET_FILTERS, _FILTER = 38, 22, 2
# Of <linux/bpf_common.h> and <linux/seccomp.h>; where a system call's number and its first argument lie.
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000
_NUMBER, _ARGUMENT = 0, 16


class _Instruction(ctypes.Structure):
    _fields_ = [
        ("code", ctypes.c_uint16),
        ("jt", ctypes.c_uint8),
        ("jf", ctypes.c_uint8),
        ("k", ctypes.c_uint32),
    ]


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_uint16), ("filter", ctypes.POINTER(_Instruction))]


def refuse_amx() -> None:
    """For this process and its children; the `preexec_fn` of a subprocess. Raises OSError where the system
    takes no filter.
    """
    call, request, _ = amx.REQUEST
    program = (_Instruction * 6)(
        (_LOAD, 0, 0, _NUMBER),
        (_JUMP_IF_EQUAL, 0, 3, call),
        (_LOAD, 0, 0, _ARGUMENT),
        (_JUMP_IF_EQUAL, 0, 1, request),
        (_RETURN, 0, 0, _FAIL | errno.EPERM),
        (_RETURN, 0, 0, _ALLOW),
    )
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) or libc.prctl(
        _SET_FILTERS, _FILTER, ctypes.byref(_Program(len(program), program))
    ):
        raise OSError(ctypes.get_errno(), "no filter of system calls")
