"""Whose caches decide how much is read."""

from __future__ import annotations

import pytest

from aqd_deploy.bench.bandwidth import with_caches
from aqd_deploy.kernels.contract.caches import Core


@pytest.mark.parametrize(
    ("told", "core"),
    [
        ({"index2": ("2", "512K"), "index3": ("3", "32768K")}, Core(l2=512 << 10, l3=32 << 20)),
        ({"index0": ("1", "48K"), "index2": ("2", "2048K")}, Core(l2=2 << 20)),
        ({"index2": ("2", "")}, Core()),
        ({}, Core()),
    ],
)
def test_what_linux_tells_of_the_caches(tmp_path, told, core):
    for name, (level, size) in told.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "level").write_text(f"{level}\n")
        (tmp_path / name / "size").write_text(f"{size}\n")
    assert with_caches(Core(), tmp_path) == core
