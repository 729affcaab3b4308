"""A program for a card, loaded once and run any number of times, with arrays under the integer ONNX's names.

It has the face of `program.Program`. Whatever launches for it is a `Driver`: the card's (`cuda_driver`), or
one that runs the same source on a CPU, as the tests have.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from aqd_deploy.runtime.container import Container
from aqd_deploy.runtime.launches import Call, read_launches
from aqd_deploy.runtime.tensors import TensorInfo, checked_inputs, random_inputs


class Driver(Protocol):
    """One card with one memory."""

    def load(self, code: memoryview, functions: Sequence[str], target: Mapping[str, Any]) -> None:
        """Load the functions of a cubin. Raises ProgramError where the card cannot run it."""

    def allocate(self, size: int) -> int:
        """`size` bytes of zeros; returns the address. Raises DeviceError where there are not so many."""

    def upload(self, address: int, data: np.ndarray | memoryview) -> None:
        """Bytes to memory."""

    def download(self, address: int, data: np.ndarray) -> None:
        """Bytes of memory into `data`."""

    def record(self, calls: Sequence[Call], base: int) -> Callable[[], float]:
        """A function that launches `calls`, one after the other, waits for them, and returns their seconds by
        the card's clock. Raises DeviceError where the card fails.
        """

    def close(self) -> None:
        """Give memory and functions back."""


class CardProgram:
    """A loaded program. Calls from several threads run one after the other.

    `driver` is its own: where loading fails, it is closed. Raises ProgramError for a program that the card
    cannot run, DeviceError where the card has too little memory, or fails.
    """

    def __init__(self, container: Container, driver: Driver) -> None:
        self.manifest: dict[str, Any] = container.manifest
        program = self.manifest["program"]
        self.inputs = TensorInfo.from_manifest(program["inputs"])
        self.outputs = TensorInfo.from_manifest(program["outputs"])
        self._driver, self._turn = driver, threading.Lock()
        try:
            self._load(container)
        except BaseException:
            driver.close()
            raise

    def _load(self, container: Container) -> None:
        launches, driver, program = read_launches(container), self._driver, self.manifest["program"]
        driver.load(launches.code, launches.functions, program["target"])
        self._launches, self._base = launches, driver.allocate(launches.memory_bytes)
        base = self._base
        driver.upload(base, launches.stored)
        driver.record(launches.prepare, base)()
        self._replay = driver.record(launches.run, base)
        self._inputs = [base + at for at in launches.inputs]
        self._outputs = [base + at for at in launches.outputs]

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once. `inputs` maps every input's name to an array of exactly its shape and dtype.

        Returns every output by name. Raises ShapeError for a missing or unknown name, another shape or dtype,
        DeviceError where the card fails.
        """
        arrays = checked_inputs(self.inputs, inputs)
        results = {info.name: np.empty(info.shape, info.dtype) for info in self.outputs}
        with self._turn:
            for address, array in zip(self._inputs, arrays, strict=True):
                self._driver.upload(address, np.ascontiguousarray(array))
            self._replay()
            for address, array in zip(self._outputs, results.values(), strict=True):
                self._driver.download(address, array)
        return results

    def time(self, repeats: int = 10, warmup: int = 2) -> list[float]:
        """Seconds of each of `repeats` runs after `warmup` unmeasured ones, on random inputs that lie in the
        card's memory, by the card's clock. Raises what `run` raises.
        """
        self.run(self.random_inputs())
        with self._turn:
            return [self._replay() for _ in range(warmup + repeats)][warmup:]

    def time_layers(self, repeats: int = 5, together: int = 20) -> list[float]:
        """Seconds of the launches of each layer, one call: the least of `repeats` measurements of `together`
        calls in a row, after one that is not measured. The next run is as if nothing had been called: it
        writes every tensor before it is read. Raises DeviceError where the card fails.
        """
        launches = self._launches
        calls: dict[int, list[Call]] = {layer: [] for layer in range(1 + max(launches.layers, default=-1))}
        for layer, call in zip(launches.layers, launches.run, strict=True):
            calls[layer].append(call)
        with self._turn:
            return [self._least(each, repeats, together) if each else 0.0 for each in calls.values()]

    def _least(self, calls: list[Call], repeats: int, together: int) -> float:
        replay = self._driver.record(calls * together, self._base)
        replay()
        return min(replay() for _ in range(repeats)) / together

    def random_inputs(self, seed: int = 0) -> dict[str, np.ndarray]:
        """Uniform pseudo-random values over the whole range of each input's dtype."""
        return random_inputs(self.inputs, seed)

    def close(self) -> None:
        """Give the card's memory back; the program cannot run any more."""
        self._driver.close()
