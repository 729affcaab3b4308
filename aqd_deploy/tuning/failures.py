"""Whose failure it is when a candidate cannot be measured: only its own is worth a record.

Its own are listed here and nothing else is: integers that differ, instructions that are missing, a kernel
that cannot be compiled, a crash. Whatever else happens (a full disk, a folder that forbids to load code, no
linker, a process that was killed for its memory, a board that is gone) is the machine's. Errors come out of
worker processes, and through MetaSchedule, as the last line of a traceback: the name of the error's type, and
what it says.
"""

from __future__ import annotations

import re
import signal
from enum import Enum

from aqd_deploy.errors import TuningError
from aqd_deploy.files import temporary_root

# Signals that a kernel, or the compiler on its code, brings upon its own process.
_CRASHES = (signal.SIGSEGV, signal.SIGILL, signal.SIGFPE)


class NotExactError(ValueError):
    """A candidate returned other integers than the reference."""


class InstructionError(ValueError):
    """A candidate's code lacks the instructions it was written for."""


class CompileError(ValueError):
    """A candidate's kernel could not be compiled, or its code refuses to run."""


class CrashError(ValueError):
    """A candidate ended the process that compiled or ran it."""


class Fault(Enum):
    """Who failed: the candidate, the time that it was given, or the machine (or board)."""

    CANDIDATE = "candidate"
    TIME = "time"
    MACHINE = "machine"


_OWN = "|".join(kind.__name__ for kind in (NotExactError, InstructionError, CompileError, CrashError))
_CANDIDATE = re.compile(rf"([\w.]+\.)?({_OWN}): ")
# Ours while building, and MetaSchedule's while measuring.
_TIME = re.compile(r"not built within|(Local|RPC)Runner: Timeout")


def fault_of(reason: str) -> Fault:
    """Whose failure `reason`, the last line of an error, tells."""
    if _CANDIDATE.match(reason):
        return Fault.CANDIDATE
    return Fault.TIME if _TIME.match(reason) else Fault.MACHINE


def death(status: int | None) -> Exception:
    """The error for a process that ended in a call with `status`, as `subprocess` tells it."""
    number = -status if status is not None and status < 0 else 0
    if number in _CRASHES:
        # As the last line of its traceback, which a process that is gone does not send.
        return CrashError(f"CrashError: its process ended with {signal.Signals(number).name}")
    told = f"ended by {_signal_name(number)}" if number else f"exit code {status}"
    return ChildProcessError(f"a worker process was lost: {told}")


def _signal_name(number: int) -> str:
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"


def cannot_go_on(reason: str, boards: str = "") -> TuningError:
    """The error for a machine, or the `boards` of a tracker, where nothing can be measured."""
    where = f"on the boards of {boards}" if boards else "on this machine"
    return TuningError(
        f"candidates cannot be measured {where}, and none is blamed for it in the records",
        received=reason,
        next_command=_advice(reason, boards),
    )


def _advice(reason: str, boards: str) -> str:
    if boards:
        return "the same command when the boards answer again"
    if "No space left" in reason:
        return f"free some space in {temporary_root()} and repeat the command"
    if "Failed to load" in reason or "failed to map" in reason:
        return (
            f"the same command with TMPDIR=FOLDER, one that allows to execute files unlike {temporary_root()}"
        )
    if "SIGKILL" in reason or "MemoryError" in reason:
        return "free some memory and repeat the command"
    return "aqd-deploy doctor"
