"""One face for what runs a network: a compiled program, here or on a device; an ONNX file by onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from aqd_deploy.devices import LOCAL, open_device
from aqd_deploy.errors import DeviceError
from aqd_deploy.runtime.tensors import TensorInfo


class _Runs(Protocol):
    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]: ...


@dataclass(frozen=True)
class Runner:
    """A loaded network, its manifest, and shape and numpy dtype name of its inputs by name (of an ONNX file,
    a dimension may be no number: then it may have any size).
    """

    manifest: dict[str, Any]
    network: _Runs
    inputs: Mapping[str, tuple[tuple[Any, ...], str]]
    close: Callable[[], None] = lambda: None

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name, of the network's own dtypes, for inputs by name."""
        return self.network.run(inputs)

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_runner(path: Path, threads: int | None = None, device: str = LOCAL) -> Runner:
    """The runner of a program (or bundle) on `device` (`open_device`), or of a file named .onnx (integer or
    QDQ) by the reference. Close it, or use it in a `with` statement.

    Raises ProgramError or ModelFileError where the file cannot be loaded, DeviceError where there is no such
    device, or the file is none that it runs.
    """
    opened = open_device(device)
    if path.suffix == ".onnx":
        if not opened.here:
            raise DeviceError(
                "a device runs compiled programs",
                received=str(path),
                next_command="aqd-deploy compile MODEL.onnx --target NAME -o PROGRAM.so",
            )
        from aqd_deploy.integer.files import load_onnx
        from aqd_deploy.integer.manifest import read_manifest
        from aqd_deploy.integer.reference import ReferenceRunner

        model = load_onnx(path)
        reference = ReferenceRunner(model, threads)
        return Runner(read_manifest(model), reference, reference.inputs)
    program = opened.load(path, threads)
    return Runner(program.manifest, program, _described(program.manifest), opened.close)


def _described(manifest: dict[str, Any]) -> dict[str, tuple[tuple[Any, ...], str]]:
    infos = TensorInfo.from_manifest(manifest["program"]["inputs"])
    return {info.name: (info.shape, info.dtype) for info in infos}
