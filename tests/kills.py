"""Commands that are killed, and what they leave: a helper of tests."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

# Hidden but not temporary: the lock of tuning records, what onnxruntime keeps under fixed names, the list of
# a folder's own files.
KEPT = re.compile(r"\.lock|\.ses|\.onnxruntime|\.written-by-aqd-deploy")


def _hidden(folder: Path) -> list[Path]:
    """Hidden entries anywhere below. Unlike `rglob`, `walk` goes on where a folder vanishes meanwhile."""
    return [
        Path(parent, name)
        for parent, folders, files in os.walk(folder)
        for name in (*folders, *files)
        if name.startswith(".")
    ]


class Sandbox:
    """Folders of their own for outputs, temporary files and the cache of commands, which are known by a mark
    in their environment.
    """

    def __init__(self, folder: Path) -> None:
        self.work, self.temporary, self.cache = (folder / name for name in ("work", "tmp", "cache"))
        for path in (self.work, self.temporary, self.cache):
            path.mkdir(parents=True)
        self.mark = f"AQD_KILL_TEST={uuid.uuid4().hex}"
        name, value = self.mark.split("=")
        self.environment = {
            **os.environ,
            "TMPDIR": str(self.temporary),
            "XDG_CACHE_HOME": str(self.cache),
            name: value,
        }

    def start(self, words: Sequence[object]) -> subprocess.Popen[str]:
        """Start Python with these arguments."""
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            # Tests that run in the background of a shell would hand that on.
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return subprocess.Popen(
            [sys.executable, *map(str, words)],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def verb(self, *words: object) -> subprocess.Popen[str]:
        """Start `aqd-deploy`."""
        return self.start(["-m", "aqd_deploy", *words])

    def kill(self, process: subprocess.Popen[str], number: int) -> str:
        """Send a signal and wait; what the process printed."""
        process.send_signal(number)
        process.wait(60)
        self.wait_for(lambda: not self.processes(), 5, "no process")
        return process.communicate()[0]

    def processes(self) -> list[str]:
        """Command lines of the living processes of this sandbox."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdecimal() and self.mark.encode() in (entry / "environ").read_bytes():
                    found.append((entry / "cmdline").read_text(errors="replace").replace("\0", " "))
            except OSError:
                continue
        return found

    def left(self) -> list[str]:
        """All temporary entries: everything in the folder for temporary files, hidden entries elsewhere."""
        found = [*self.temporary.iterdir(), *_hidden(self.work), *_hidden(self.cache)]
        return [str(path) for path in found if not KEPT.fullmatch(path.name)]

    def wait_for(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Wait for `condition`; AssertionError after `seconds`."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, (
                f"not within {seconds} s: {what}; {self.processes()}; {self.left()}"
            )
            time.sleep(0.002)
