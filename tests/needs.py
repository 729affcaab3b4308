"""Tools that some tests need: a test whose tool is missing is skipped, and fails where CI is set.

A marker of `TOOLS` says it for a whole test; `need` says it in the middle of one. Whoever says nothing does
not see what is optional where `AQD_TESTS_PATH` is set: a PATH of the programs that README.md asks for.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import pytest

from aqd_deploy.compiler.nvcc import find_cuda_compiler, find_cuda_tool
from aqd_deploy.errors import AqdError, MissingExtraError

# By marker: names of the tool, any of which will do, and what installs it.
TOOLS = {
    "needs_qemu": (("qemu-aarch64-static", "qemu-aarch64"), "apt-get install qemu-user-static"),
    "needs_cross": (("aarch64-linux-gnu-g++",), "apt-get install g++-aarch64-linux-gnu"),
    "needs_sshd": (("sshd",), "apt-get install openssh-server openssh-client"),
}
# By marker: a package of an extra that the tests do not install, also in CI, and what installs it.
PACKAGES = {"needs_zig": ("ziglang", "pip install 'aqd-deploy[cross]'")}
NVCC = "needs_nvcc"
_WHOLE = os.environ.get("PATH", os.defpath)
_ASKED_FOR = os.environ.get("AQD_TESTS_PATH", _WHOLE)


def show_programs(item: pytest.Item) -> None:
    """Set PATH to what this test may see."""
    said = any(item.get_closest_marker(marker) for marker in (*TOOLS, *PACKAGES, NVCC))
    os.environ["PATH"] = _WHOLE if said else _ASKED_FOR


def _show_all() -> None:
    """Let the test that runs see every program, unless it has a PATH of its own."""
    if os.environ.get("PATH") == _ASKED_FOR:
        os.environ["PATH"] = _WHOLE


def find_tool(marker: str) -> str | None:
    """The path of a marker's tool: on PATH, or in the `sbin` beside a folder of it, which only root's has."""
    places = os.environ.get("PATH", os.defpath).split(os.pathsep)
    path = os.pathsep.join([*places, *(str(Path(each).with_name("sbin")) for each in places if each)])
    return next((found for name in TOOLS[marker][0] if (found := shutil.which(name, path=path))), None)


def check_tools(item: pytest.Item) -> None:
    """Skip a test whose marker's tool or package is missing; with CI set, fail it for a tool."""
    for marker, (names, install) in TOOLS.items():
        if item.get_closest_marker(marker) is not None and find_tool(marker) is None:
            _refuse(f"needs {names[0]}: {install}")
    for marker, (package, install) in PACKAGES.items():
        if item.get_closest_marker(marker) is not None and find_spec(package) is None:
            pytest.skip(f"needs {package}: {install}")
    if item.get_closest_marker(NVCC) is not None:
        try:
            find_cuda_compiler()
        except MissingExtraError as error:
            _refuse(f"needs nvcc: {error.next_command}")


def need(*tools: str) -> None:
    """Skip the test that calls this unless every one of `tools` is on the path; with CI set, fail it."""
    _show_all()
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        _refuse(f"not installed: {', '.join(missing)}")


def need_cuda_tool(name: str) -> str:
    """The path of a tool of CUDA's toolkit; skip the test where there is none; with CI set, fail it."""
    _show_all()
    found = find_cuda_tool(name)
    if found is None:
        _refuse(f"needs {name}: pip install 'aqd-deploy[cuda]'")
    return found[0]


def need_packages(*packages: str) -> None:
    """Skip the test that calls this unless every one of `packages` can be imported; with CI set, fail it."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        _refuse(f"not installed: {', '.join(missing)}: pip install 'aqd-deploy[writers]'")


@contextmanager
def need_network(sentence: str) -> Iterator[None]:
    """Skip the test where the body fails with an error that contains `sentence`; with CI set, fail it."""
    try:
        yield
    except AqdError as error:
        if sentence not in error.sentence():
            raise
        _refuse(f"no network: {error.what}")


def _refuse(reason: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
