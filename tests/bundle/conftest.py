"""Bundles of a small program, made once a session, and a way to call their runner."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bundle_models import tiny_program

from aqd_deploy.bundle import Bundle, create_bundle

QEMU = {
    "aarch64": ("qemu-aarch64-static", "-L", "/usr/aarch64-linux-gnu"),
    "armv7": ("qemu-arm-static", "-L", "/usr/arm-linux-gnueabihf"),
}


@pytest.fixture(scope="session")
def program(tmp_path_factory) -> Path:
    """The small program for this machine, with the portable kernels."""
    return tiny_program("x86-64-v2", tmp_path_factory.mktemp("program") / "tiny.so")


@pytest.fixture(scope="session")
def shared_bundle(program, tmp_path_factory) -> Bundle:
    """The bundle of `program`; tests must not change it."""
    return create_bundle(program, tmp_path_factory.mktemp("bundle") / "b")


@pytest.fixture
def bundle_copy(shared_bundle, tmp_path) -> Path:
    """The folder of a bundle to damage."""
    return shutil.copytree(shared_bundle.path, tmp_path / "copy")


@pytest.fixture
def run_bundle() -> Callable[..., subprocess.CompletedProcess]:
    """Call the runner of a bundle; with `emulate` under qemu."""

    def call(folder: Path, *options: object, emulate: str = "", cpu: str = "") -> subprocess.CompletedProcess:
        emulator = [*QEMU[emulate], *(("-cpu", cpu) if cpu else ())] if emulate else []
        command = [*emulator, folder / "aqd-run", *options]
        return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)

    return call


@pytest.fixture
def refused(run_bundle) -> Callable[..., str]:
    """Call the runner; it must fail with one sentence, print no data, and load nothing."""

    def call(folder: Path, *options: object, **how: str) -> str:
        done = run_bundle(folder, *options, **how)
        assert done.returncode == 1, done.stderr
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: ")
        return line.removeprefix("error: ")

    return call


@pytest.fixture
def outputs_of(run_bundle, tmp_path) -> Callable[..., dict[str, np.ndarray]]:
    """Outputs by name of a bundle's runner on arrays by name."""

    def call(
        folder: Path, inputs: dict[str, np.ndarray], *options: object, **how: str
    ) -> dict[str, np.ndarray]:
        words: list[object] = []
        for name, array in inputs.items():
            np.save(tmp_path / f"{name}.npy", array)
            words += ["--input", f"{name}={tmp_path / name}.npy"]
        done = run_bundle(folder, *words, "--output", tmp_path / "outputs", *options, **how)
        assert done.returncode == 0, done.stderr
        document = json.loads(done.stdout)
        arrays = {each["name"]: np.load(tmp_path / "outputs" / each["file"]) for each in document["outputs"]}
        for each in document["outputs"]:
            assert arrays[each["name"]].dtype == each["dtype"]
            assert list(arrays[each["name"]].shape) == each["shape"]
        return arrays

    return call


@pytest.fixture(autouse=True)
def as_compiled(threads_as_compiled: None) -> None:
    """For all tests of this folder."""
