"""One face for what can run a network: a compiled program, or an ONNX file by onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np


class _Runs(Protocol):
    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]: ...


@dataclass(frozen=True)
class Runner:
    """A loaded network and its manifest."""

    manifest: dict[str, Any]
    network: _Runs

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name, of the network's own dtypes, for inputs by name."""
        return self.network.run(inputs)


def open_runner(path: Path, threads: int | None = None) -> Runner:
    """The runner of a program, or of a file named .onnx (integer or QDQ) by the reference.

    Raises ProgramError or ModelFileError where the file cannot be loaded.
    """
    if path.suffix == ".onnx":
        from aqd_deploy.integer.files import load_onnx
        from aqd_deploy.integer.reference import ReferenceRunner
        from aqd_deploy.passes.read_qdq import read_manifest

        model = load_onnx(path)
        return Runner(read_manifest(model), ReferenceRunner(model, threads))
    from aqd_deploy.runtime.program import Program

    program = Program.load(path, threads)
    return Runner(program.manifest, program)
