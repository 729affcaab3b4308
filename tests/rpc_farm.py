"""A TVM RPC tracker and servers on the loopback address, each in processes of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from aqd_deploy.devices.rpc_tracker import Tracker
from aqd_deploy.errors import DeviceError

KEY = "board"


@dataclass
class Farm:
    """A tracker with its servers, and what each server wrote."""

    tracker: Tracker
    servers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    logs: list[Path] = field(default_factory=list)

    def sessions(self, index: int) -> int:
        """How many sessions a server has begun."""
        return self.logs[index].read_text(errors="replace").count("start serving")

    def kill(self, index: int) -> None:
        """End a server and what it serves at once, as a power cut would."""
        _kill_tree(self.servers[index])


@contextmanager
def rpc_farm(folder: Path, servers: int, preexec_fn: Callable[[], None] | None = None) -> Iterator[Farm]:
    """Start a tracker and `servers` servers with KEY, and wait until they are there. A server does
    `preexec_fn` before it begins.
    """
    ports = [_free_port() for _ in range(servers + 1)]
    farm = Farm(Tracker("127.0.0.1", ports[0], KEY))
    started = [_start(folder / "tracker.log", "tvm.exec.rpc_tracker", ports[0])]
    try:
        for port in ports[1:]:
            log = folder / f"server{port}.log"
            options = ["--tracker", f"127.0.0.1:{ports[0]}", "--key", KEY]
            farm.servers.append(_start(log, "tvm.exec.rpc_server", port, *options, preexec_fn=preexec_fn))
            farm.logs.append(log)
        _wait(farm, [*started, *farm.servers], [folder / "tracker.log", *farm.logs])
        yield farm
    finally:
        for process in (*farm.servers, *started):
            _kill_tree(process)


def _start(
    log: Path, module: str, port: int, *options: str, preexec_fn: Callable[[], None] | None = None
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", module, "--host", "127.0.0.1", "--port", str(port)]
    command += ["--port-end", str(port + 1)]
    environment = {**os.environ, "TVM_BIND_THREADS": "0"}
    with log.open("wb") as file:
        return subprocess.Popen(
            [*command, *options], stdout=file, stderr=file, env=environment, preexec_fn=preexec_fn
        )


def _wait(farm: Farm, processes: list[subprocess.Popen[bytes]], logs: list[Path]) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end and all(process.poll() is None for process in processes):
        try:
            if farm.tracker.servers() == len(farm.servers):
                return
        except DeviceError:
            # Not there yet.
            pass
        time.sleep(0.2)
    raise TimeoutError("\n".join(log.read_text(errors="replace") for log in logs))


def _kill_tree(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        for child in psutil.Process(process.pid).children(recursive=True):
            # That of a session which was closed just now is ending.
            with suppress(psutil.NoSuchProcess):
                child.kill()
        process.kill()
    process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
