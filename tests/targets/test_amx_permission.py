"""Without the kernel's permission a CPU has no AMX for us."""

import pytest

from aqd_deploy import targets
from aqd_deploy.targets import amx, cpu
from aqd_deploy.targets.cpu import Cpu

FEATURES = frozenset(targets.get("sapphirerapids").features)


@pytest.fixture
def cpuinfo(tmp_path, monkeypatch):
    """A machine with AMX, whose kernel answers what the test says."""
    path = tmp_path / "cpuinfo"
    path.write_text(f"model name : test CPU\nflags : {' '.join(sorted(FEATURES))}\n")
    monkeypatch.setattr(cpu, "_CPUINFO", path)
    cpu.read_cpu.cache_clear()
    yield monkeypatch
    cpu.read_cpu.cache_clear()


def test_refused_is_not_there(cpuinfo):
    cpuinfo.setattr(amx, "refusal", lambda: "the kernel refused")
    found = cpu.read_cpu()
    assert not found.features & set(amx.FEATURES)
    assert found.withheld == "AMX: the kernel refused"
    assert found.lacks(FEATURES) == ["amx_int8", "amx_tile"]


def test_granted_is_there(cpuinfo):
    cpuinfo.setattr(amx, "refusal", lambda: "")
    assert cpu.read_cpu().lacks(FEATURES) == []
    assert cpu.read_cpu().withheld == ""


def test_nobody_is_asked_where_there_is_none(cpuinfo, tmp_path):
    (tmp_path / "cpuinfo").write_text("flags : avx2\n")
    cpuinfo.setattr(amx, "refusal", lambda: pytest.fail("asked"))
    assert cpu.read_cpu().withheld == ""


def test_host_is_amx_where_it_may_be_used():
    found = Cpu("x86_64", "test CPU", FEATURES, 2)
    assert targets.detect_host(found).profile == "sapphirerapids"
    assert not targets.get("sapphirerapids").missing_on(found)
    assert targets.get("sapphirerapids").kernels == "amx"
