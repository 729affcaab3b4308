"""One face for what runs a network: a compiled program, here or on a device; an ONNX file by onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from aqd_deploy.detection.interface import check_interface
from aqd_deploy.devices import LOCAL, open_device
from aqd_deploy.errors import DeviceError
from aqd_deploy.runtime.tensors import TensorInfo

Shape = tuple[Any, ...]


class _Runs(Protocol):
    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]: ...


@dataclass(frozen=True)
class Runner:
    """A loaded network, its manifest, shape and numpy dtype name of its inputs by name, and shapes of its
    outputs (a dimension of an ONNX file that is not a number may have any size).
    """

    manifest: dict[str, Any]
    network: _Runs
    inputs: Mapping[str, tuple[Shape, str]]
    outputs: Mapping[str, Shape]
    close: Callable[[], None] = lambda: None

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name, of the network's own dtypes, for inputs by name."""
        return self.network.run(inputs)

    def check_detector(self) -> None:
        """Hold what the manifest says of images and boxes to the network's inputs and outputs, where their
        sizes are known (`check_interface`). Outputs beside those of boxes are let through. Raises
        ModelFileError.
        """
        inputs = {name: shape for name, (shape, _) in self.inputs.items()}
        sizes = [size for shape in (*inputs.values(), *self.outputs.values()) for size in shape]
        if all(isinstance(size, int) for size in sizes):
            check_interface(self.manifest, inputs, self.outputs, more_outputs=True)

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_runner(path: Path, threads: int | None = None, device: str = LOCAL) -> Runner:
    """The runner of a program (or bundle) on `device` (`open_device`), or of a file named .onnx (integer or
    QDQ) by the reference. Close it, or use it in a `with` statement.

    Raises ProgramError or ModelFileError where the file cannot be loaded, DeviceError where there is no such
    device, or it does not run such a file.
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
        return Runner(read_manifest(model), reference, reference.inputs, reference.outputs)
    program = opened.load(path, threads)
    return Runner(program.manifest, program, *_ports(program.manifest), opened.close)


def _ports(manifest: dict[str, Any]) -> tuple[dict[str, tuple[Shape, str]], dict[str, Shape]]:
    """`inputs` and `outputs` of a program's runner."""
    inputs, outputs = (
        TensorInfo.from_manifest(manifest["program"][ports]) for ports in ("inputs", "outputs")
    )
    return {i.name: (i.shape, i.dtype) for i in inputs}, {o.name: o.shape for o in outputs}
