"""Memory and start-up of fresh processes: one that runs the program, one that runs INT8 in onnxruntime."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from aqd_deploy import processes
from aqd_deploy.bench.network import Network
from aqd_deploy.bench.peers.convert import converted
from aqd_deploy.bench.peers.onnxruntime import QDQ, QDQ_FILE
from aqd_deploy.errors import PeerError
from aqd_deploy.files import TemporaryFolder

ORT_INT8 = "onnxruntime int8"
REPEATS = 3


def compare_memory(program: Path, network: Network, threads: list[int]) -> list[dict[str, Any]]:
    """One entry a process and number of threads, the best of REPEATS processes.

    `peak_mb` is the largest resident set (MB of 10^6 bytes), `load_s` the seconds from the first import of
    the runtime to a loaded network, `first_s` those of the first inference, `process_s` those of the whole
    process with the interpreter's start. Raises PeerError where a process fails.
    """
    found = []
    with TemporaryFolder() as folder:
        pixels, value = folder / "pixels.npy", folder / "value.npy"
        np.save(pixels, network.codes)
        np.save(value, network.value)
        int8 = network.model if network.is_quantized else converted(QDQ, network) / QDQ_FILE
        for count in threads:
            for label, kind, model, array in (
                ("aqd-deploy", "program", program, pixels),
                (ORT_INT8, "onnxruntime", int8, value),
            ):
                measured = [_measure(kind, model, array, count) for _ in range(REPEATS)]
                best = {key: min(each[key] for each in measured) for key in measured[0]}
                found.append({"contender": label, "threads": count, **best})
    return found


def program_memory(program: Path, threads: int) -> dict[str, float]:
    """The same of one fresh process that runs the program, on random input."""
    from aqd_deploy.runtime.program import Program

    with TemporaryFolder() as folder:
        pixels = folder / "pixels.npy"
        (value,) = Program.load(program).random_inputs().values()
        np.save(pixels, value)
        return _measure("program", program, pixels, threads)


def _measure(kind: str, model: Path, array: Path, threads: int) -> dict[str, float]:
    command = [sys.executable, "-m", "aqd_deploy.bench.resident", kind, str(model), str(array), str(threads)]
    done = processes.run(command, temporary=array.parent)
    if done.returncode:
        last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise PeerError(f"the process that measures {kind} failed", received=last[:200])
    return dict(json.loads(done.stdout.splitlines()[-1]))
