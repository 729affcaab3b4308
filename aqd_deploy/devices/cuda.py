"""A card of NVIDIA's in this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from aqd_deploy.devices.device import Device
from aqd_deploy.errors import ProgramError
from aqd_deploy.runtime.bundle_files import program_file
from aqd_deploy.runtime.card_program import CardProgram
from aqd_deploy.runtime.container import read_container
from aqd_deploy.runtime.cuda_driver import CudaDriver
from aqd_deploy.runtime.launches import is_launched


class CudaDevice(Device):
    """Runs programs for cards on card `index`; each is loaded once for as long as its file holds the same
    bytes. Threads mean nothing to it.
    """

    def __init__(self, index: int) -> None:
        self.text, self.index = f"cuda:{index}", index
        # The SHA-256 of the file beside what was loaded from it.
        self._loaded: dict[Path, tuple[str, CardProgram]] = {}

    def run(
        self, program: Path, inputs: Mapping[str, np.ndarray], threads: int | None = None
    ) -> dict[str, np.ndarray]:
        """See `Device`. Raises what `load` and `CardProgram.run` raise."""
        return self.load(program).run(inputs)

    def time(
        self, program: Path, repeats: int = 10, warmup: int = 2, threads: int | None = None
    ) -> list[float]:
        """See `Device`. Inputs and outputs stay on the card."""
        return self.load(program).time(repeats, warmup)

    def time_layers(self, program: Path) -> list[float]:
        """See `TimesLayers`: many calls of each in a row."""
        return self.load(program).time_layers()

    def close(self) -> None:
        """Give the card's memory back."""
        for _, loaded in self._loaded.values():
            loaded.close()
        self._loaded.clear()

    def load(self, program: Path, threads: int | None = None) -> CardProgram:
        """See `Device`. Raises ProgramError for a program for a CPU or another card, DeviceError where there
        is no such card, or it has too little memory.
        """
        container = read_container(program_file(program))
        if not is_launched(container.manifest):
            raise ProgramError(
                f"{program} is for a CPU", received=f"--device {self.text}", valid="a program for a card",
                next_command="aqd-deploy compile MODEL.onnx --target cuda -o PROGRAM.so",
            )  # fmt: skip
        known, loaded = self._loaded.get(program.resolve(), (None, None))
        if loaded is None or known != container.sha256:
            if loaded is not None:
                loaded.close()
            loaded = CardProgram(container, CudaDriver(self.index))
            self._loaded[program.resolve()] = container.sha256, loaded
        return loaded
