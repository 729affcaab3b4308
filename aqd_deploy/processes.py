"""Commands that end with this process, however it ends, with all that they start themselves.

A shell goes before the command and becomes it. The command leads a process group of its own, and in it a
process, nobody's child, reads from a pipe that only this process can write to: the pipe ends when this
process does, and the group is killed then. A parent-death signal would reach the command alone: not the
compiler behind the compiler's driver.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# $0: the descriptor of the pipe; the rest: the command.
_KEEPER = """
( { read -r _ < "/dev/fd/$0"; kill -KILL 0; } < /dev/null > /dev/null 2>&1 & )
exec "$@"
"""
_PR_SET_PDEATHSIG = 1


@contextmanager
def started(command: Sequence[str | os.PathLike[str]], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """`subprocess.Popen`; whatever still runs of the command is killed at the end of the block.

    It cannot ask for anything on the terminal. Raises FileNotFoundError where there is no such command.
    """
    if shutil.which(command[0]) is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(command[0]))
    lifeline, ours = os.pipe()
    try:
        process: subprocess.Popen[Any] = subprocess.Popen(
            ["/bin/sh", "-c", _KEEPER, str(lifeline), *(os.fspath(word) for word in command)],
            pass_fds=(lifeline,),
            process_group=0,
            **options,
        )
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(lifeline)
    try:
        yield process
    finally:
        # The reader of the pipe keeps the group there, so its number means nothing else.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(ours)
        for stream in filter(None, (process.stdin, process.stdout, process.stderr)):
            # What was not written to it has no reader any more.
            with suppress(OSError):
                stream.close()


def run(
    command: Sequence[str | os.PathLike[str]],
    *,
    temporary: Path | None = None,
    input: str | None = None,
    cwd: Path | None = None,
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and return its exit status and what it printed. `temporary` is the folder for
    its temporary files: what it leaves there when it is killed goes with the folder.

    Raises FileNotFoundError where there is no such command, subprocess.TimeoutExpired.
    """
    # What it says is read for known words.
    environment = {**os.environ, "LC_ALL": "C"}
    if temporary is not None:
        environment["TMPDIR"] = str(temporary.absolute())
    with started(
        command,
        stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        cwd=cwd,
        env=environment,
    ) as process:
        stdout, stderr = process.communicate(input, timeout)
    return subprocess.CompletedProcess(list(command), process.returncode, stdout, stderr)


def end_with_parent(parent: int) -> None:
    """Let the kernel kill this process when the thread of the process `parent` ends that started it; at once
    where it has ended. Ctrl-C is the parent's to answer.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
