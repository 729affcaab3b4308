"""Tools that some tests need: a test with the marker is skipped where its tool is missing, and fails in CI.
"""

from __future__ import annotations

import os
import shutil

import pytest

# By marker: names of the tool, any of which will do, and what installs it.
TOOLS = {
    "needs_qemu": (("qemu-aarch64-static", "qemu-aarch64"), "apt-get install qemu-user-static"),
    "needs_cross": (("aarch64-linux-gnu-g++",), "apt-get install g++-aarch64-linux-gnu"),
    "needs_sshd": (("sshd", "/usr/sbin/sshd"), "apt-get install openssh-server openssh-client"),
}


def find_tool(marker: str) -> str | None:
    """The path of a marker's tool."""
    return next((path for name in TOOLS[marker][0] if (path := shutil.which(name))), None)


def check_tools(item: pytest.Item) -> None:
    """Skip a test whose tool is missing; with CI set, fail it."""
    for marker, (names, install) in TOOLS.items():
        if item.get_closest_marker(marker) is None or find_tool(marker) is not None:
            continue
        reason = f"needs {names[0]}: {install}"
        if os.environ.get("CI"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
