"""One face for what runs a network: a compiled program, here or on a device; an ONNX file by onnxruntime."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from aqd_deploy.detection.description import about, read_description
from aqd_deploy.detection.interface import check_interface
from aqd_deploy.detection.settings import DetectorSettings
from aqd_deploy.devices import LOCAL, open_device
from aqd_deploy.errors import DeviceError, ModelFileError
from aqd_deploy.runtime.bundle_files import program_file
from aqd_deploy.runtime.reals import FLOATS, INTEGERS, dequantized, quantized
from aqd_deploy.runtime.tail import Tail
from aqd_deploy.runtime.tensors import TensorInfo

Shape = tuple[Any, ...]


class _Runs(Protocol):
    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]: ...


@dataclass(frozen=True)
class Runner:
    """A loaded network, its manifest, shape and numpy dtype name of its inputs by name, and shapes of its
    outputs (a dimension of an ONNX file that is not a number may have any size).

    `file` is where it was loaded from: its tail lies beside it, and is loaded when it is first asked for.
    `description` is the file that describes its images and boxes, where its own manifest does not.
    """

    manifest: dict[str, Any]
    network: _Runs
    inputs: Mapping[str, tuple[Shape, str]]
    outputs: Mapping[str, Shape]
    file: Path = Path()
    threads: int | None = None
    close: Callable[[], None] = lambda: None
    description: Path | None = None

    @property
    def wanted(self) -> dict[str, tuple[Shape, tuple[str, ...]]]:
        """The shape in which people have each input, and the dtypes that `run` takes: its own and, where the
        manifest says what the integers stand for, floats.
        """
        entries = self.manifest.get("inputs", {})
        return {
            name: (self._outer(name, shape), (dtype, *(FLOATS if name in entries else ())))
            for name, (shape, dtype) in self.inputs.items()
        }

    @cached_property
    def tail(self) -> Tail | None:
        """What is float behind the network. Raises what `Tail.beside` raises."""
        return Tail.beside(self.file, self.manifest, self.threads)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name, of the network's own dtypes, for inputs by name that are `wanted`.

        Raises what the network raises, and `quantized` for floats.
        """
        outputs = self.network.run({name: self._codes(name, array) for name, array in inputs.items()})
        return {name: array.reshape(self._outer(name, array.shape)) for name, array in outputs.items()}

    def floats(self, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The float32 numbers that the integers of `run`'s outputs stand for, and what the tail makes of
        them.

        Raises ScaleError for integers that the manifest says nothing of, and what `tail` raises.
        """
        values = {
            name: self._reals(name, array) if str(array.dtype) in INTEGERS else array
            for name, array in outputs.items()
        }
        return values if self.tail is None else {**self.tail.run(values), **values}

    def detect(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs that the manifest's detector reads: integers, or floats where one is the tail's."""
        outputs = self.run(inputs)
        return self.floats(outputs) if self._reads_tail else outputs

    def check_detector(self) -> None:
        """Hold what the manifest says of images and boxes to the network's inputs and outputs, as far as
        their sizes are known (`check_interface`). Outputs beside those of boxes are let through. Raises
        ModelFileError, and what `tail` raises where boxes come from it.
        """
        outputs = dict(self.outputs)
        if self._reads_tail and self.tail is not None:
            outputs.update(self.tail.outputs)
        with nullcontext() if self.description is None else about(self.description):
            check_interface(self.manifest, self._shapes, outputs, more_outputs=True)

    def described(self, path: Path) -> Runner:
        """The same network, whose images and boxes the file at `path` describes. Raises what
        `read_description` raises.
        """
        entries = read_description(path, self.manifest, self._shapes, self._own_outputs)
        return replace(self, manifest={**self.manifest, **entries}, description=path)

    def _own_outputs(self) -> dict[str, Shape]:
        """Shapes of the outputs of the file that was lowered: the tail's, and those that it does not read.
        Raises what `tail` raises.
        """
        if self.tail is None:
            return dict(self.outputs)
        read = self.manifest["tail"]["inputs"]
        kept = {name: shape for name, shape in self.outputs.items() if name not in read}
        return {**kept, **self.tail.outputs}

    @property
    def _shapes(self) -> dict[str, Shape]:
        """The shapes in which people have the inputs."""
        return {name: shape for name, (shape, _) in self.wanted.items()}

    @cached_property
    def _reads_tail(self) -> bool:
        """Whether the manifest's detector reads another output than the network's own."""
        levels = DetectorSettings.from_manifest(self.manifest).levels
        return any(name not in self.outputs for level in levels for name in level.outputs.values())

    def _codes(self, name: str, array: np.ndarray) -> np.ndarray:
        """The network's integers of an input; what is not `wanted` is the network's to refuse."""
        shape, dtypes = self.wanted.get(name, (None, ()))
        if array.shape != shape or str(array.dtype) not in dtypes:
            return array
        inner, dtype = self.inputs[name]
        array = array.reshape(inner)
        if dtype in FLOATS:
            return array.astype(dtype)
        if str(array.dtype) == dtype:
            return array
        return quantized(name, array, self.manifest["inputs"][name], dtype)

    def _reals(self, name: str, array: np.ndarray) -> np.ndarray:
        """The numbers that the integers of an output stand for."""
        entry = self.manifest.get("outputs", {}).get(name, {})
        inner = self.outputs[name] if name in self.manifest.get("shapes", {}) else array.shape
        return dequantized(name, array.reshape(inner), entry).reshape(array.shape)

    def _outer(self, name: str, shape: Shape) -> Shape:
        """The shape in which people have a tensor that is `shape` in the network."""
        outer = tuple(self.manifest.get("shapes", {}).get(name, shape))
        if outer != shape and math.prod(outer) != math.prod(shape):
            raise ModelFileError(
                f"the manifest has another size of {name} than the network",
                received=list(outer),
                valid=f"as many elements as {list(shape)}",
            )
        return outer

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
        quantized = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
        reference = ReferenceRunner(model, threads, as_written=quantized)
        manifest = _with_float_inputs(read_manifest(model), reference.inputs)
        return Runner(manifest, reference, reference.inputs, reference.outputs, path, threads)
    program = opened.load(path, threads)
    ports = _ports(program.manifest)
    return Runner(program.manifest, program, *ports, program_file(path), threads, opened.close)


def _with_float_inputs(manifest: dict[str, Any], inputs: Mapping[str, tuple[Shape, str]]) -> dict[str, Any]:
    """The manifest with an entry for every input that takes floats as they are, so that a description may
    tell how pixels become them.
    """
    floats: dict[str, dict] = {name: {} for name, (_, dtype) in inputs.items() if dtype in FLOATS}
    return {**manifest, "inputs": {**floats, **manifest.get("inputs", {})}} if floats else manifest


def _ports(manifest: dict[str, Any]) -> tuple[dict[str, tuple[Shape, str]], dict[str, Shape]]:
    """`inputs` and `outputs` of a program's runner."""
    inputs, outputs = (
        TensorInfo.from_manifest(manifest["program"][ports]) for ports in ("inputs", "outputs")
    )
    return {i.name: (i.shape, i.dtype) for i in inputs}, {o.name: o.shape for o in outputs}
