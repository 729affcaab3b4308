"""A process that loads a network, runs it, and says what that took. It imports nothing else.

python -m aqd_deploy.bench.resident program|onnxruntime MODEL INPUT.npy THREADS
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

RUNS = 3


def _program(model: str, value: np.ndarray, threads: int) -> Callable[[], object]:
    from aqd_deploy.runtime.program import Program

    program = Program.load(model, threads)
    (info,) = program.inputs
    inputs = {info.name: value}
    return lambda: program.run(inputs)


def _onnxruntime(model: str, value: np.ndarray, threads: int) -> Callable[[], object]:
    from aqd_deploy.bench.peers.onnxruntime import open_session

    return open_session(Path(model), value, threads)


def _peak_bytes() -> int:
    """The largest resident set of this process.

    Not `ru_maxrss`: across fork and exec that keeps the size of the process it was started from.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    if found is None:
        raise OSError("this system does not tell the peak of the resident set")
    return int(found[1]) * 1024


def _process_seconds() -> float:
    """Seconds since this process was started, to a hundredth (the clock tick of /proc)."""
    stat = Path("/proc/self/stat").read_text(encoding="ascii")
    started = int(stat.rsplit(")", 1)[1].split()[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started


def main(arguments: list[str]) -> None:
    """Print one JSON object: peak_mb, load_s, first_s and process_s (`memory.compare_memory`)."""
    import numpy as np

    kind, model, array, threads = arguments
    value = np.load(array)
    started = time.perf_counter()
    run = {"program": _program, "onnxruntime": _onnxruntime}[kind](model, value, int(threads))
    loaded = time.perf_counter()
    run()
    first = time.perf_counter()
    total = _process_seconds()
    for _ in range(RUNS):
        run()
    measured = {
        "peak_mb": _peak_bytes() / 1e6,
        "load_s": loaded - started,
        "first_s": first - loaded,
        "process_s": total,
    }
    print(json.dumps({key: round(number, 4) for key, number in measured.items()}))


if __name__ == "__main__":
    main(sys.argv[1:])
