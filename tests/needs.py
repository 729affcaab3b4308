"""Skips tests whose tools are missing; where the environment variable CI is set, they fail instead."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from aqd_deploy.errors import AqdError


def need(*tools: str) -> None:
    """Skip the test that calls this unless every one of `tools` is on the path; fail it in CI."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        _give_up(f"not installed: {', '.join(missing)}")


@contextmanager
def need_network(sentence: str) -> Iterator[None]:
    """Skip the test where the body fails with an error that contains `sentence`; fail it in CI."""
    try:
        yield
    except AqdError as error:
        if sentence not in error.sentence():
            raise
        _give_up(f"no network: {error.what}")


def _give_up(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
