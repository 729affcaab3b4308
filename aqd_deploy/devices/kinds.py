"""The kinds of devices, an entry each, and the device that a text names.

A new kind is a module with its `Device` and an entry here. What a device needs beside Python is imported when
it is opened, so that reading its name costs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aqd_deploy.errors import DeviceError
from aqd_deploy.targets import Target, cards, read_cpu

if TYPE_CHECKING:
    from aqd_deploy.devices.device import Device

# Neither part may begin with a dash: the OpenSSH client would take it for an option.
_SSH = re.compile(
    r"(?P<user>[^@:\s-][^@:\s]*@)?(?:\[(?P<v6>[0-9A-Fa-f:.%\w]+)\]|(?P<host>[^@:\s\[\]-][^@:\s\[\]]*))(?::(?P<port>\d{1,5}))?"
)
_RPC = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:]+)\]|(?P<host>[^:/\s]+)):(?P<port>\d{1,5})/(?P<key>\S+)")
_CPU = re.compile(r"[\w.,=+-]+")

Needs = Mapping[str, Callable[[], str]]


@dataclass(frozen=True)
class DeviceKind:
    """`prefix` is what its texts begin with, up to a colon, and `syntax` how people write them.

    `open` makes the device of what is behind the colon (None without one); None where the text is not written
    like that. `needs` are the tools of this machine that it takes to run programs for a target, by name: each
    tells where it is, or raises an AqdError that says how to install it; none where nobody would use it.
    """

    prefix: str
    syntax: str
    open: Callable[[str | None], Device | None]
    needs: Callable[[Target], Needs]


def _local(rest: str | None) -> Device | None:
    from aqd_deploy.devices.local import LocalDevice

    return LocalDevice() if rest is None else None


def _qemu(rest: str | None) -> Device | None:
    from aqd_deploy.devices.qemu import QemuDevice

    return QemuDevice(rest) if rest is None or _CPU.fullmatch(rest) else None


def _qemu_needs(target: Target) -> Needs:
    from aqd_deploy.devices import qemu

    if target.card or target.architecture == read_cpu().architecture:
        return {}
    return qemu.needs(target.architecture)


def _ssh(rest: str | None) -> Device | None:
    from aqd_deploy.devices.ssh import SshDevice

    match = _SSH.fullmatch(rest or "")
    if match is None or not _is_port(match["port"] or "22"):
        return None
    port = int(match["port"]) if match["port"] else None
    return SshDevice((match["user"] or "") + (match["v6"] or match["host"]), port)


def _ssh_needs(target: Target) -> Needs:
    from aqd_deploy.devices.ssh_client import client

    wanted = target.missing_on(read_cpu()) or target.device.startswith("ssh:")
    return {"OpenSSH client": client} if wanted and not target.card else {}


def _rpc(rest: str | None) -> Device | None:
    from aqd_deploy.devices.rpc import RpcDevice

    match = _RPC.fullmatch(rest or "")
    if match is None or not _is_port(match["port"]):
        return None
    return RpcDevice(match["v6"] or match["host"], int(match["port"]), match["key"])


def _cuda(rest: str | None) -> Device | None:
    from aqd_deploy.devices.cuda import CudaDevice

    if rest is not None and not re.fullmatch(r"\d{1,3}", rest):
        return None
    return CudaDevice(int(rest or 0))


def _cuda_needs(target: Target) -> Needs:
    return {"NVIDIA's driver": lambda: cards.architecture(0)} if target.card else {}


def _nothing(_: Target) -> Needs:
    return {}


KINDS = (
    DeviceKind("local", "local", _local, _nothing),
    DeviceKind("qemu", "qemu[:CPU]", _qemu, _qemu_needs),
    DeviceKind("ssh", "ssh:USER@HOST[:PORT]", _ssh, _ssh_needs),
    DeviceKind("cuda", "cuda[:N]", _cuda, _cuda_needs),
    DeviceKind("rpc", "rpc:HOST:PORT/KEY", _rpc, _nothing),
)
LOCAL = KINDS[0].syntax


def known_devices() -> str:
    """How people write the devices, for `valid:` of an error."""
    return ", ".join(kind.syntax for kind in KINDS)


def names_tracker(text: str) -> bool:
    """Whether `text` is meant as boards of a tracker, well written or not."""
    return text.strip().partition(":")[0] == "rpc"


def open_device(text: str, *, timing: bool = False) -> Device:
    """The device that `text` names, by `KINDS`.

    Nothing is connected yet. Raises DeviceError where the text names no device and, for `timing`, where its
    times would mean nothing.
    """
    prefix, colon, rest = text.strip().partition(":")
    kind = next((each for each in KINDS if each.prefix == prefix), None)
    device = None if kind is None else kind.open(rest if colon else None)
    if device is None:
        raise DeviceError("unknown device", received=repr(text), valid=known_devices())
    if timing:
        device.check_times()
    return device


def _is_port(text: str) -> bool:
    return 1 <= int(text) <= 65535
