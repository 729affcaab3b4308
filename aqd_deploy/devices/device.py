"""The face that all devices share, and the texts that name them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from aqd_deploy.devices.rpc_tracker import Tracker
from aqd_deploy.errors import DeviceError

if TYPE_CHECKING:
    import numpy as np

FORMS = "local, qemu[:CPU], ssh:USER@HOST[:PORT], rpc:HOST:PORT/KEY"

# Neither part may begin with a dash: the OpenSSH client would take it for an option.
_SSH = re.compile(
    r"(?P<user>[^@:\s-][^@:\s]*@)?(?:\[(?P<v6>[0-9A-Fa-f:.%\w]+)\]|(?P<host>[^@:\s\[\]-][^@:\s\[\]]*))(?::(?P<port>\d{1,5}))?"
)
_RPC = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:]+)\]|(?P<host>[^:/\s]+)):(?P<port>\d{1,5})/(?P<key>\S+)")
_CPU = re.compile(r"[\w.,=+-]+")


class Device(Protocol):
    """Something that runs programs. Close it: it may hold temporary files or a connection.

    `used_threads` are those of the last `time`, which may be fewer than were asked for.
    """

    text: str
    used_threads: int | None

    def run(
        self, program: Path, inputs: Mapping[str, np.ndarray], threads: int | None = None
    ) -> dict[str, np.ndarray]:
        """Every output by name for inputs by name, with the shapes and dtypes of the program's manifest.

        `program` is a program file, or the folder of a bundle. Raises ProgramError, ShapeError, DeviceError.
        """
        ...

    def time(
        self, program: Path, repeats: int = 10, warmup: int = 2, threads: int | None = None
    ) -> list[float]:
        """Seconds of each of `repeats` runs on random inputs after `warmup` unmeasured ones, by the device's
        own clock. Raises ProgramError, and DeviceError where its times would mean nothing.
        """
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


def open_device(text: str, *, timing: bool = False) -> Device:
    """The device that `text` names: `local`, `qemu[:CPU]`, `ssh:USER@HOST[:PORT]` or `rpc:HOST:PORT/KEY`.

    Nothing is connected yet. Raises DeviceError where the text names no device and, for `timing`, where its
    times would mean nothing.
    """
    kind, colon, rest = text.strip().partition(":")
    if kind == "local" and not colon:
        from aqd_deploy.devices.local import LocalDevice

        return LocalDevice()
    if kind == "qemu" and (not colon or _CPU.fullmatch(rest)):
        from aqd_deploy.devices.qemu import QemuDevice

        emulated = QemuDevice(rest or None)
        if timing:
            emulated.check_times()
        return emulated
    if kind == "ssh" and (match := _SSH.fullmatch(rest)) and _is_port(match["port"] or "22"):
        from aqd_deploy.devices.ssh import SshDevice

        port = int(match["port"]) if match["port"] else None
        return SshDevice((match["user"] or "") + (match["v6"] or match["host"]), port)
    if kind == "rpc":
        from aqd_deploy.devices.rpc import RpcDevice

        tracker = parse_rpc(text)
        return RpcDevice(tracker.host, tracker.port, tracker.key)
    raise DeviceError("there is no such device", received=repr(text), valid=FORMS)


def parse_rpc(text: str) -> Tracker:
    """The tracker, and the key of the boards. Raises DeviceError."""
    kind, _, rest = text.strip().partition(":")
    match = _RPC.fullmatch(rest)
    if kind != "rpc" or match is None or not _is_port(match["port"]):
        raise DeviceError(
            "this is no RPC tracker with a key",
            received=repr(text),
            valid="rpc:HOST:PORT/KEY, for example rpc:192.168.1.2:9190/raspberrypi-5",
        )
    return Tracker(match["v6"] or match["host"], int(match["port"]), match["key"])


def _is_port(text: str) -> bool:
    return 1 <= int(text) <= 65535
