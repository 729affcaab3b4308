"""Skips tests whose tools are missing; where the environment variable CI is set, they fail instead."""

from __future__ import annotations

import os
import shutil

import pytest


def need(*tools: str) -> None:
    """Skip the test that calls this unless every one of `tools` is on the path; fail it in CI."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if not missing:
        return
    reason = f"not installed: {', '.join(missing)}"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
