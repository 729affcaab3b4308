"""This machine, in this process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aqd_deploy.devices.device import Device
from aqd_deploy.runtime.bundle_files import program_file
from aqd_deploy.runtime.container import read_container

if TYPE_CHECKING:
    from aqd_deploy.runtime.program import Program


class LocalDevice(Device):
    """Runs programs with the TVM runtime of this process; each is loaded once for as long as its file holds
    the same bytes.
    """

    text = "local"
    here = True

    def __init__(self) -> None:
        # The SHA-256 of the file beside what was loaded from it.
        self._loaded: dict[tuple[Path, int | None], tuple[str, Program]] = {}

    def run(
        self, program: Path, inputs: Mapping[str, np.ndarray], threads: int | None = None
    ) -> dict[str, np.ndarray]:
        """See `Device`. Raises what `Program.load` raises."""
        return self.load(program, threads).run(inputs)

    def time(
        self, program: Path, repeats: int = 10, warmup: int = 2, threads: int | None = None
    ) -> list[float]:
        """See `Device`."""
        loaded = self.load(program, threads)
        self.used_threads = loaded.threads
        return loaded.time(repeats, warmup)

    def close(self) -> None:
        """Forget the loaded programs."""
        self._loaded.clear()

    def load(self, program: Path, threads: int | None = None) -> Program:
        """See `Device`. The program itself, whose file is not looked at again. Raises what `Program.load`
        raises.
        """
        from aqd_deploy.runtime.program import Program

        container = read_container(program_file(program))
        key = (program.resolve(), threads)
        known, loaded = self._loaded.get(key, (None, None))
        if loaded is None or known != container.sha256:
            loaded = Program.from_container(container, threads)
            self._loaded[key] = container.sha256, loaded
        return loaded
