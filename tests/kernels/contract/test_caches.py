"""Blocking reckons with the caches of the device's profile."""

import pytest

from aqd_deploy.kernels.contract.caches import CORE, KIB, Core
from aqd_deploy.kernels.contract.spec import ConvSpec, Epilogue
from aqd_deploy.kernels.cpu.conv.blocking import Blocking
from aqd_deploy.kernels.cpu.conv.families import conv_choices
from aqd_deploy.records.task import Task
from aqd_deploy.targets import get
from aqd_deploy.targets.isa import Isa

# A convolution whose strips must be cut for small caches.
SPEC = ConvSpec(80, 80, 256, 64, (3, 3), pads=(1, 1, 1, 1), input_range=(0, 15), weight_range=(-15, 15))


@pytest.mark.parametrize(
    ("name", "core"),
    [
        ("raspberrypi-3", Core(32 * KIB, 128 * KIB, 0, in_order=True)),
        ("raspberrypi-4", Core(32 * KIB, 256 * KIB, 0)),
        ("raspberrypi-5", Core(64 * KIB, 512 * KIB, 2048 * KIB)),
        ("graviton3", Core(64 * KIB, 1024 * KIB, 32768 * KIB)),
        ("aarch64", CORE),
        ("x86-64-v4", CORE),
        ("cascadelake", CORE),
        ("zen4", CORE),
    ],
)
def test_profiles_tell_the_caches(name, core):
    assert Core.of(get(name)) == core
    assert Core(**core.to_json()) == core


def test_strips_fit_the_second_level():
    for core in (Core(l2=128 * KIB), CORE):
        choices = [c for c in conv_choices(SPEC, Isa.NEON, 1, core) if c.family == "blocked"]
        rows = {Blocking.from_parameters(dict(choice.parameters)).rows for choice in choices}
        strips = {high: (high + 2) * 82 * 256 for high in rows}
        assert all(high == 1 or size <= core.l2 // 4 for high, size in strips.items())
        assert max(rows) == (1 if core != CORE else 10)


def test_tasks_of_other_cores_are_others():
    usual, small = (Task(SPEC, Epilogue(), Isa.NEON, 1, core) for core in (CORE, Core(l2=128 * KIB)))
    assert "core" not in usual.to_json()
    assert usual.key != small.key
    assert Task.from_json(small.to_json()) == small
