"""How `aqd-run` is called and what it answers, the same on every device that runs it."""

from __future__ import annotations

import io
import json
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from aqd_deploy.errors import DeviceError
from aqd_deploy.runtime.bundle_files import LocalBundle
from aqd_deploy.runtime.tensors import TensorInfo, checked_inputs

CACHE = "~/.cache/aqd-deploy"
"""Where a board keeps the files of bundles."""


@dataclass(frozen=True)
class Answer:
    """Outputs by name (none where they were not asked for), seconds of each measured run, and the threads
    that were used.
    """

    outputs: dict[str, np.ndarray]
    seconds: list[float]
    threads: int | None = None


def input_files(bundle: LocalBundle, inputs: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    """A .npy file by name for each input, in the program's order. Raises ShapeError."""
    files = {}
    for index, array in enumerate(checked_inputs(bundle.inputs, inputs)):
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
        files[f"input{index}.npy"] = buffer.getvalue()
    return files


def run_arguments(
    bundle: LocalBundle, folder: str, output: str | None, repeats: int, warmup: int, threads: int | None
) -> list[str]:
    """What `aqd-run` is called with: `input_files` lie in `folder`, outputs go to `output`."""
    words = []
    for index, info in enumerate(bundle.inputs):
        words += ["--input", f"{info.name}={folder}/input{index}.npy"]
    if output is not None:
        words += ["--output", output]
    words += ["--repeat", str(repeats), "--warmup", str(warmup)]
    return words if threads is None else [*words, "--threads", str(threads)]


def read_answer(
    device: str, text: str, expected: list[TensorInfo], read: Callable[[str], bytes] | None
) -> Answer:
    """What the runner on `device` printed, and the outputs that `read` returns by file name.

    Raises DeviceError where it is not what `aqd-run` prints, or the outputs are not the program's.
    """
    try:
        document = json.loads(text)
        seconds = [float(value) for value in document["seconds"]]
        threads = int(document["threads"]) if "threads" in document else None
        files = {entry["name"]: str(entry["file"]) for entry in document["outputs"]} if read else {}
        outputs = {} if read is None else {name: _array(read(file)) for name, file in files.items()}
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise DeviceError(
            f"{device}: the runner's answer cannot be read", received=f"{error}: {text[:80]!r}"
        ) from error
    if read is not None:
        _check(device, outputs, expected)
    return Answer(outputs, seconds, threads)


def refusal(device: str, status: int, stderr: str) -> DeviceError:
    """The error for a runner that ended with `status` (negative or above 128: by a signal)."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    number = -status if status < 0 else status - 128 if status > 128 else 0
    if number:
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        return DeviceError(
            f"{device}: the program was ended by {name}",
            received=lines[-1] if lines else None,
            next_command="aqd-deploy inspect PROGRAM.so, and compare its target with the device",
        )
    if status == 126 and lines and lines[-1].endswith("Permission denied"):
        return DeviceError(
            f"{device}: the runner may not be executed where it lies: {CACHE}, on a file system with noexec?",
            received=lines[-1],
            next_command=f"the same command, once the board's {CACHE} is a link to a folder that allows it",
        )
    if status in (126, 127):
        return DeviceError(
            f"{device}: the runner cannot be started: the program is for another kind of system",
            received=lines[-1] if lines else f"exit code {status}",
            next_command="aqd-deploy targets list",
        )
    told = lines[-1] if lines else f"the runner failed with exit code {status}"
    return DeviceError(f"{device}: {told.removeprefix('aqd-run: ').removeprefix('error: ')}")


def _array(data: bytes) -> np.ndarray:
    return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)


def _check(device: str, outputs: Mapping[str, np.ndarray], expected: list[TensorInfo]) -> None:
    wanted: dict[str, Any] = {info.name: (info.dtype, info.shape) for info in expected}
    got = {name: (str(array.dtype), array.shape) for name, array in outputs.items()}
    if got != wanted:
        raise DeviceError(f"{device}: the outputs are not the program's", received=got, valid=str(wanted))
