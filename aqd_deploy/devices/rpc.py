"""A board of a farm: TVM's RPC tracker lends one with the key, and its server loads and runs the program.

The program itself is sent, not its bundle: the board has TVM's runtime already. One board is held from the
first run of a device until it is closed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aqd_deploy.devices.device import Device
from aqd_deploy.devices.rpc_tracker import Tracker
from aqd_deploy.errors import DeviceError, ProgramError, line_of
from aqd_deploy.runtime import backend
from aqd_deploy.runtime.bundle_files import program_file
from aqd_deploy.runtime.container import read_container
from aqd_deploy.runtime.launches import refuse_card
from aqd_deploy.runtime.tensors import TensorInfo, checked_inputs, random_inputs
from aqd_deploy.targets import architectures

_CPU, _POOLED_ALLOCATOR, _MODE_BIG = 1, 2, 1


@dataclass
class _Loaded:
    """A program on a board: the session, its virtual machine, and what `prepare` made there."""

    session: Any
    machine: Any
    prepared: Any
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]


class RpcDevice(Device):
    """Runs programs on a board that the tracker at `host:port` lends for `key`."""

    def __init__(self, host: str, port: int, key: str) -> None:
        self.tracker: Tracker = Tracker(host, port, key)
        self.text = self.tracker.text
        self._session: Any = None
        self._programs: dict[str, _Loaded] = {}

    def run(
        self, program: Path, inputs: Mapping[str, np.ndarray], threads: int | None = None
    ) -> dict[str, np.ndarray]:
        """See `Device`. Raises DeviceError where tracker or board are not there, or the board is lost."""
        with self._errors():
            loaded = self._ready(program, inputs, threads)
            machine = loaded.machine
            machine["invoke_stateful"]("run")
            get = machine["get_output"]
            return {info.name: get("run", index).numpy() for index, info in enumerate(loaded.outputs)}

    def time(
        self, program: Path, repeats: int = 10, warmup: int = 2, threads: int | None = None
    ) -> list[float]:
        """See `Device`; by the board's clock."""
        with self._errors():
            loaded = self._ready(program, None, threads)
            self.used_threads = int(loaded.session.get_function("runtime.NumThreads")())
            for _ in range(max(warmup - 1, 0)):
                loaded.machine["invoke_stateful"]("run")
            # The evaluator has a run of its own before the first that counts.
            evaluator = loaded.machine.time_evaluator(
                "invoke_stateful", loaded.session.cpu(), number=1, repeat=repeats
            )
            return [float(value) for value in evaluator("run").results]

    def close(self) -> None:
        """Give the board back to the tracker."""
        self._programs.clear()
        self._session = None

    def _ready(self, program: Path, inputs: Mapping[str, np.ndarray] | None, threads: int | None) -> _Loaded:
        """The program on the board with its inputs set; random ones for None."""
        from tvm import runtime

        loaded = self._load(program_file(program))
        arrays = checked_inputs(loaded.inputs, random_inputs(loaded.inputs) if inputs is None else inputs)
        if threads is not None:
            loaded.session.get_function("runtime.config_threadpool")(_MODE_BIG, threads)
        device = loaded.session.cpu()
        tensors = [runtime.tensor(np.ascontiguousarray(array), device) for array in arrays]
        loaded.machine["set_input"]("run", *tensors, loaded.prepared)
        return loaded

    def _load(self, path: Path) -> _Loaded:
        container = read_container(path)
        refuse_card(container)
        described = container.manifest["program"]
        name = f"{container.sha256[:16]}.so"
        if name not in self._programs:
            session = self._opened()
            _check(self.text, session, described)
            session.upload(bytearray(container.data), name)
            machine = session.load_module(name)["vm_load_executable"]()
            machine["vm_initialization"](_CPU, 0, _POOLED_ALLOCATOR)
            self._programs[name] = _Loaded(
                session,
                machine,
                machine["prepare"](),
                TensorInfo.from_manifest(described["inputs"]),
                TensorInfo.from_manifest(described["outputs"]),
            )
        return self._programs[name]

    def _opened(self) -> Any:
        """The session with a board; waits for one where all are busy."""
        if self._session is None:
            self.tracker.servers()
            # Brings TVM's runtime in without PyTorch, which it would import for seconds.
            backend.ffi()
            from tvm import rpc

            self._session = rpc.connect_tracker(self.tracker.host, self.tracker.port).request(
                self.tracker.key
            )
        return self._session

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """TVM's errors as sentences; a session that had one is given up."""
        try:
            yield
        except (RuntimeError, AttributeError, OSError) as error:
            self.close()
            raise DeviceError(
                f"{self.text}: the board was lost, or could not run the program",
                received=line_of(error, -1),
                next_command="the same command, with a program of this version for this board",
            ) from error


def _check(device: str, session: Any, described: Mapping[str, Any]) -> None:
    """Raise ProgramError for a program of another TVM or, where the board's server tells its own, for another
    architecture.
    """
    if described.get("tvm_version") != backend.tvm_version():
        raise ProgramError(
            "the program is of another version",
            received=f"TVM {described.get('tvm_version')}",
            valid=f"TVM {backend.tvm_version()}",
            next_command="aqd-deploy compile MODEL.onnx --target NAME -o PROGRAM.so",
        )
    architecture = described["target"]["architecture"]
    try:
        triple = str(session.get_function("target.llvm_get_system_triple")())
    except (RuntimeError, AttributeError):
        # A server without the compiler.
        return
    if not triple.startswith(architectures.get(architecture).llvm_triples):
        raise ProgramError(
            f"{device} has another CPU than the program's",
            received=f"a program for {architecture}, a board that is {triple.split('-')[0]}",
            next_command="aqd-deploy compile MODEL.onnx --target NAME -o PROGRAM.so",
        )
