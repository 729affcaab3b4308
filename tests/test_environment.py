"""Clock, governor and load in the description of a machine."""

from __future__ import annotations

import pytest

from aqd_deploy import environment as module
from aqd_deploy.environment import environment

CPUINFO = "processor\t: 0\ncpu MHz\t\t: 2445.406\nprocessor\t: 1\ncpu MHz\t\t: 9.0\n"


@pytest.mark.parametrize(
    ("frequency", "cpuinfo", "megahertz"),
    [
        ("1800000\n", CPUINFO, 1800.0),
        (None, CPUINFO, 2445.406),
        ("<unknown>\n", "", None),
        (None, None, None),
    ],
)
def test_the_clock_is_that_of_the_first_cpu(frequency, cpuinfo, megahertz, tmp_path, monkeypatch):
    for name, content in (("_CLOCK", frequency), ("_CPUINFO", cpuinfo), ("_GOVERNOR", "schedutil\n")):
        path = tmp_path / name
        monkeypatch.setattr(module, name, path)
        if content is not None:
            path.write_text(content)
    found = environment()
    assert (found["clock_mhz"], found["governor"]) == (megahertz, "schedutil")


def test_what_a_system_does_not_tell_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_GOVERNOR", tmp_path / "none")
    monkeypatch.delattr(module.os, "getloadavg")
    assert environment()["governor"] is environment()["load"] is None
