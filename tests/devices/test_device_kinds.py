"""A kind of device is one entry: what names it, opens it, and what it needs; nobody else reads its text."""

import ast
from pathlib import Path

import pytest
from needing import ROOT

from aqd_deploy import targets
from aqd_deploy.devices import LOCAL, kinds, open_device
from aqd_deploy.devices.kinds import KINDS, DeviceKind
from aqd_deploy.devices.local import LocalDevice
from aqd_deploy.errors import DeviceError

EXAMPLES = {
    "local": "local", "qemu": "qemu:cortex-a72", "ssh": "ssh:pi@board:22", "rpc": "rpc:board:9190/pi",
    "cuda": "cuda:1",
}  # fmt: skip


class Board(LocalDevice):
    """A device of a new kind."""

    text, here = "board", False

    def check_times(self):
        raise DeviceError("this board has no clock")


@pytest.fixture
def new_kind(monkeypatch):
    kind = DeviceKind("board", "board", lambda rest: Board(), lambda target: {"a cable": lambda: "/dev/usb"})
    monkeypatch.setattr(kinds, "KINDS", (*KINDS, kind))


def test_every_kind_opens_a_device_of_its_own():
    assert {kind.prefix for kind in KINDS} == set(EXAMPLES)
    devices = [open_device(EXAMPLES[kind.prefix]) for kind in KINDS]
    assert [device.text for device in devices] == [EXAMPLES[kind.prefix] for kind in KINDS]
    assert len({type(device) for device in devices}) == len(KINDS)
    assert [device.here for device in devices] == [kind.syntax == LOCAL for kind in KINDS]
    assert [device.tracker is not None for device in devices] == [kind.prefix == "rpc" for kind in KINDS]


def test_a_new_kind_is_one_entry(new_kind):
    assert isinstance(open_device(" board "), Board)
    with pytest.raises(DeviceError, match=r"unknown device; got 'gpu'; valid: local, .*, board$"):
        open_device("gpu")
    with pytest.raises(DeviceError, match="no clock"):
        open_device("board", timing=True)


def test_what_a_new_kind_needs_is_told(new_kind, monkeypatch):
    from aqd_deploy.reporting import readiness

    monkeypatch.setattr(readiness, "KINDS", kinds.KINDS)
    checks = [
        check for check in readiness.readiness(targets.get("host"))["checks"] if check["what"] == "a cable"
    ]
    assert checks == [
        {"what": "a cable", "needed_for": "run --device board", "state": "ok", "detail": "/dev/usb"}
    ]


def test_the_documentation_names_every_kind():
    text = (ROOT / "docs" / "how-to" / "devices.md").read_text(encoding="utf-8")
    assert [kind.syntax for kind in KINDS if f"| `{kind.syntax}` |" not in text] == []


def compared(tree: ast.Module) -> list[ast.Constant]:
    """The constants that a module compares something with, or asks whether a text begins with."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            found += [node.left, *node.comparators]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            found += node.args if node.func.attr == "startswith" else []
    return [each for each in found if isinstance(each, ast.Constant) and isinstance(each.value, str)]


def test_nobody_else_reads_the_text_of_a_device():
    prefixes = {kind.prefix for kind in KINDS}
    # Kernels keep values in memory that TVM calls "local".
    apart = (Path("aqd_deploy/devices"), Path("aqd_deploy/kernels"))
    found = [
        f"{path.relative_to(ROOT)}:{text.lineno}: {text.value!r}"
        for path in sorted((ROOT / "aqd_deploy").rglob("*.py"))
        if not any(path.is_relative_to(ROOT / folder) for folder in apart)
        for text in compared(ast.parse(path.read_text(encoding="utf-8")))
        if text.value.partition(":")[0] in prefixes
    ]
    assert found == []
