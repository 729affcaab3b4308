"""The face that all devices share. `kinds.py` lists them and opens one by its text."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np

    from aqd_deploy.devices.rpc_tracker import Tracker


class LoadedProgram(Protocol):
    """A program that a device is to run many times."""

    manifest: dict[str, Any]

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """As `Device.run`."""
        ...


@runtime_checkable
class TimesLayers(Protocol):
    """A device that tells the times of layers."""

    def time_layers(self, program: Path) -> list[float]:
        """Seconds of each layer of the program's manifest. Raises what `Device.time` raises."""
        ...


class Device(ABC):
    """Something that runs programs. Close it: it may hold temporary files or a connection.

    `text` names it, as `open_device` takes it; `used_threads` are those of the last `time`, which may be
    fewer than were asked for. `here` says whether it is this process, where more than latency can be
    measured; `tracker` lends the boards of a farm, None for every other device.
    """

    text: str
    used_threads: int | None = None
    here: bool = False
    tracker: Tracker | None = None

    @abstractmethod
    def run(
        self, program: Path, inputs: Mapping[str, np.ndarray], threads: int | None = None
    ) -> dict[str, np.ndarray]:
        """Every output by name for inputs by name, with the shapes and dtypes of the program's manifest.

        `program` is a program file, or the folder of a bundle. Raises ProgramError, ShapeError, DeviceError.
        """

    @abstractmethod
    def time(
        self, program: Path, repeats: int = 10, warmup: int = 2, threads: int | None = None
    ) -> list[float]:
        """Seconds of each of `repeats` runs on random inputs after `warmup` unmeasured ones, by the device's
        own clock. Raises ProgramError, and DeviceError where its times would mean nothing.
        """

    @abstractmethod
    def close(self) -> None:
        """Give back what it holds."""

    def load(self, program: Path, threads: int | None = None) -> LoadedProgram:
        """`program` to be run many times. Raises ProgramError where its file cannot be used."""
        from aqd_deploy.runtime.bundle_files import program_file
        from aqd_deploy.runtime.container import read_manifest

        return _OnDevice(read_manifest(program_file(program)), self, program, threads)

    def check_times(self) -> None:
        """Raise DeviceError where its times would mean nothing: no device is like that by default."""
        return


@dataclass
class _OnDevice:
    manifest: dict[str, Any]
    device: Device
    program: Path
    threads: int | None

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self.device.run(self.program, inputs, self.threads)
