"""Small programs of one shape whose integers differ, and scripts that run in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from small_models import ModelWriter, parallel_network, random_image, reference

from aqd_deploy.compiler import compile_model
from aqd_deploy.runtime.container import append_manifest, read_container

INPUTS = {"image": np.random.default_rng(3).integers(0, 256, (1, 3, 8, 8), np.uint8)}
_WEIGHTS = (8, 3, 3, 3)


@dataclass(frozen=True)
class Compiled:
    """A program, inputs of it, and what onnxruntime computes of them."""

    path: Path
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]

    @property
    def content(self) -> bytes:
        return self.path.read_bytes()


def compile_small(path: Path, seed: int) -> Compiled:
    """One convolution of `INPUTS`; all seeds have the same code."""
    w = ModelWriter(seed)
    out, inner, kernel, _ = _WEIGHTS
    image = w.image("image", inner, 8, 8)
    w.output(w.bias(w.conv(image, w.weight(out, inner, kernel, 8), pads=[1] * 4), out))
    return _compiled(w.model(), path, INPUTS, threads=2)


def compile_parallel(path: Path, threads: int, target: str = "x86-64-v2") -> Compiled:
    """Code with loops in parallel."""
    model = parallel_network({"name": path.stem})
    return _compiled(model, path, random_image(model), threads, target)


def _compiled(
    model: onnx.ModelProto,
    path: Path,
    inputs: dict[str, np.ndarray],
    threads: int,
    target: str = "x86-64-v2",
) -> Compiled:
    compile_model(model, path, target=target, threads=threads, tuned="none")
    return Compiled(path, inputs, reference(model, inputs))


def write_variants(first: Compiled, second: Compiled, folder: Path, count: int) -> list[Path]:
    """`count` programs that are `first` but for one weight each. `second`, of another seed, tells where the
    weights are: in the stretch of their size where the two differ most.
    """
    container = read_container(first.path)
    differ = np.frombuffer(container.library, np.uint8) != np.frombuffer(
        read_container(second.path).library, np.uint8
    )
    size = int(np.prod(_WEIGHTS))
    start = int(np.convolve(differ, np.ones(size, int), "valid").argmax())
    paths = []
    for index in range(count):
        code = bytearray(container.library)
        code[start + index] ^= 0x55
        paths.append(folder / f"variant{index}.so")
        paths[-1].write_bytes(code)
        append_manifest(paths[-1], container.manifest)
    return paths


def assert_equal(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(got) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)


def run_script(script: str, *arguments: object, timeout: float = 100) -> str:
    """What the Python program `script` prints in a process of its own; it must end well and in time."""
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, Path(__file__).parents[:2]))},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout
