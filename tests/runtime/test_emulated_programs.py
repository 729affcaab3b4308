"""Programs for ARM boards under qemu: the reference's integers, and a stop where the CPU lacks something."""

from __future__ import annotations

import numpy as np
import pytest
from needs import need, need_network

from aqd_deploy.compiler import compile_model
from aqd_deploy.devices import open_device
from aqd_deploy.errors import DeviceError

pytestmark = [pytest.mark.e2e, pytest.mark.needs_qemu, pytest.mark.needs_cross]


@pytest.fixture
def small_models(monkeypatch):
    import small_models

    return small_models


@pytest.fixture
def program_for(small_models, tmp_path):
    """Compile a small network for a profile."""

    def compile_for(name):
        path = tmp_path / f"{name}.so"
        compile_model(small_models.tiny_network(), path, target=name, threads=1)
        return path

    return compile_for


@pytest.mark.parametrize("name", ["raspberrypi-4", "raspberrypi-5", "armv7-neon"])
def test_the_integers_of_the_reference(name, program_for, small_models):
    if name == "armv7-neon":
        need("arm-linux-gnueabihf-g++", "qemu-arm-static")
    model = small_models.tiny_network()
    inputs = small_models.random_image(model)
    expected = small_models.reference(model, inputs)
    device = open_device("qemu")
    with need_network("cannot download"):
        outputs = device.run(program_for(name), inputs, threads=1)
    assert set(outputs) == set(expected)
    for key in expected:
        np.testing.assert_array_equal(outputs[key], expected[key])
    device.close()


def test_a_cpu_without_the_instructions(program_for, small_models):
    device = open_device("qemu:cortex-a72")
    inputs = small_models.random_image(small_models.tiny_network())
    with need_network("cannot download"), pytest.raises(DeviceError, match="this CPU lacks asimddp"):
        device.run(program_for("raspberrypi-5"), inputs)
    device.close()
