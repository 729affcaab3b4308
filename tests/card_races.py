"""Races of a card's kernels, by ThreadSanitizer, to which every thread of every block is a thread of its own
(`card_native/races.h`).

Two accesses of one byte, one of them a write, have to be ordered by what orders them on a card: a barrier, a
wait, a fence, the end of a launch. Threads of one warp are not ordered by being one, blocks not at all.
"""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from card_emulation import EMULATION, write_kernels
from needs import need

from aqd_deploy.kernels.contract.launches import Function
from aqd_deploy.runtime.launches import Call

# An address that ThreadSanitizer leaves to programs.
_BASE = 1 << 36
_FOUND = 66


class RecordingDriver:
    """A `card_program.Driver` that runs nothing: the memory as it is before the first launch, and launches.
    `numbers` are those that the functions of the program have where they are watched.
    """

    def __init__(self, numbers: Sequence[int]) -> None:
        self.numbers = numbers
        self.memory = np.zeros(0, np.uint8)
        self.calls: list[Call] = []

    def load(self, code: memoryview, functions: Sequence[str], target: Mapping[str, Any]) -> None:
        """Nothing is run."""

    def allocate(self, size: int) -> int:
        self.memory = np.zeros(size, np.uint8)
        return _BASE

    def upload(self, address: int, data: np.ndarray | memoryview) -> None:
        flat = np.frombuffer(data, np.uint8)
        self.memory[address - _BASE :][: flat.size] = flat

    def download(self, address: int, data: np.ndarray) -> None:
        data[...] = 0

    def record(self, calls: Sequence[Call], base: int) -> Callable[[], float]:
        def replay() -> float:
            self.calls += calls
            return 0.0

        return replay

    def close(self) -> None:
        """There is nothing to give back."""

    def written(self) -> bytes:
        """As `race_main.h` reads it."""
        parts = [struct.pack("<qq", self.memory.size, _BASE), self.memory.tobytes()]
        parts.append(struct.pack("<i", len(self.calls)))
        for call in self.calls:
            parameter, number = call.parameter(_BASE), self.numbers[call.function]
            numbers = (number, call.grid, call.threads, call.shared, len(parameter))
            parts.append(struct.pack("<5i", *numbers) + parameter)
        return b"".join(parts)


def races(
    functions: Sequence[Function], drivers: Sequence[RecordingDriver], folder: Path, *flags: str
) -> list[str]:
    """Of each program that was recorded, what ThreadSanitizer says of its launches, with early and with late
    copies: nothing where it finds no race.
    """
    need("g++")
    write_kernels(functions, folder, '#include "race_main.h"\n')
    command = ["g++", "-std=c++17", "-O1", "-g", "-w", "-fsanitize=thread", f"-I{EMULATION}", *flags]
    built = subprocess.run(
        [*command, "kernels.cpp", "-o", "watched"], cwd=folder, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr[:3000]
    recorded = struct.pack("<i", len(drivers)) + b"".join(driver.written() for driver in drivers)
    (folder / "launches").write_bytes(recorded)
    # Of one program one race is enough: each takes seconds to be told.
    options = {"TSAN_OPTIONS": f"halt_on_error={int(len(drivers) == 1)}"}
    result = subprocess.run(
        [folder / "watched", folder / "launches"], capture_output=True, text=True, errors="replace",
        env={**os.environ, **options},
    )  # fmt: skip
    told = result.stderr.split("program ")[1:]
    assert len(told) == len(drivers) and result.returncode in (0, _FOUND), result.stderr[-2000:]
    return [text.partition("\n")[2] for text in told]
