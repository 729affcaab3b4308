"""`rpc:` with a program that multiplies tiles: TVM's server loads it and does not know that."""

from __future__ import annotations

import numpy as np
import pytest
from amx_refusal import needs_amx, refuse_amx
from small_models import parallel_network, random_image, reference

from aqd_deploy.devices import open_device
from aqd_deploy.errors import DeviceError
from aqd_deploy.kernels.cpu.amx.tiles import REFUSED

pytestmark = [needs_amx, pytest.mark.e2e]
MODEL = parallel_network({"name": "tiles"})


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """A program for CPUs with AMX."""
    from aqd_deploy.compiler import compile_model

    path = tmp_path_factory.mktemp("tiles") / "m.so"
    compile_model(MODEL, path, target="sapphirerapids", threads=2, tuned="none")
    return path


@pytest.fixture
def farm(tmp_path):
    """A way to start a farm of one board; further arguments are those of its processes."""
    pytest.importorskip("tornado")
    from rpc_farm import rpc_farm

    return lambda **how: rpc_farm(tmp_path, 1, **how)


def test_a_board_with_tiles(farm, program):
    with farm() as running:
        device = open_device(running.tracker.text)
        for seed in range(3):
            inputs = random_image(MODEL, seed)
            outputs = device.run(program, inputs, threads=2)
            for name, value in reference(MODEL, inputs).items():
                np.testing.assert_array_equal(outputs[name], value)
        assert all(seconds > 0 for seconds in device.time(program, repeats=2, threads=2))
        device.close()
        assert running.sessions(0) == 1


def test_a_board_that_refuses_tiles_says_so(farm, program):
    with farm(preexec_fn=refuse_amx) as running:
        with pytest.raises(DeviceError, match=REFUSED):
            open_device(running.tracker.text).run(program, random_image(MODEL))
        assert running.servers[0].poll() is None
