"""Without the kernel's permission a CPU has no AMX for us."""

import subprocess
import sys
from dataclasses import replace

import pytest
from amx_refusal import WITHHELD, needs_amx, refuse_amx

from aqd_deploy import targets
from aqd_deploy.targets import amx, cpu

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


def test_host_is_amx_where_it_is_granted(cpuinfo):
    cpuinfo.setattr(amx, "refusal", lambda: "")
    found = replace(cpu.read_cpu(), architecture="x86_64")
    assert targets.detect_host(found).profile == "sapphirerapids"
    assert targets.detect_host(found).kernels == "amx"


def test_host_is_vnni_where_it_is_refused(cpuinfo):
    cpuinfo.setattr(amx, "refusal", lambda: "the kernel refused")
    found = replace(cpu.read_cpu(), architecture="x86_64")
    assert targets.detect_host(found).profile == amx.INSTEAD
    assert targets.detect_host(found).kernels == "vnni"


def test_the_reason_is_told_of_what_is_withheld_alone(cpuinfo):
    cpuinfo.setattr(amx, "refusal", lambda: "the kernel refused")
    found = cpu.read_cpu()
    assert found.told(["amx_int8", "amx_tile"]) == "amx_int8, amx_tile (AMX: the kernel refused)"
    assert found.told(["amx_int8", "sve"]) == "amx_int8, sve"
    assert replace(found, withheld="").told(["amx_int8"]) == "amx_int8"


def test_what_to_compile_for_instead_runs_wherever_amx_is():
    instead, with_amx = targets.get(amx.INSTEAD), targets.get("sapphirerapids")
    assert set(instead.features) <= set(with_amx.features)
    assert not set(instead.features) & set(amx.FEATURES)


ASK = """
from aqd_deploy import targets

print(targets.read_cpu().withheld, targets.get("host").profile, sep="|")
"""
# Eight KiB of a signal stack, which hold everything but tiles.
SMALL_STACK = """
import ctypes

class Stack(ctypes.Structure):
    _fields_ = [("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]

room = ctypes.create_string_buffer(8192)
assert ctypes.CDLL(None).sigaltstack(ctypes.byref(Stack(ctypes.addressof(room), 0, 8192)), None) == 0
"""


def asked(script, **how):
    done = subprocess.run(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=True, **how
    )
    return done.stdout.strip().split("|")


@needs_amx
def test_what_the_kernel_answers():
    assert asked(ASK) == ["", "sapphirerapids"]
    assert asked(ASK, preexec_fn=refuse_amx) == [WITHHELD, "cascadelake"]
    small = ["AMX: a thread's signal stack has no room for the tile registers", "cascadelake"]
    assert asked(SMALL_STACK + ASK) == small
