"""`rpc:` against a real tracker and servers: outputs, times, and boards that are not there."""

from __future__ import annotations

import socket
import threading

import numpy as np
import pytest
from fake_bundles import INPUTS, write_program

from aqd_deploy.devices import open_device
from aqd_deploy.devices.rpc_tracker import Tracker
from aqd_deploy.errors import DeviceError, ProgramError, ShapeError


@pytest.fixture(scope="module")
def farm(tmp_path_factory):
    pytest.importorskip("tornado")
    from rpc_farm import rpc_farm

    with rpc_farm(tmp_path_factory.mktemp("farm"), 1) as running:
        yield running


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """A program whose constants are views of pools: TVM's RPC drops their offsets unless they stay there."""
    import small_models

    from aqd_deploy.compiler import compile_model

    path = tmp_path_factory.mktemp("program") / "m.so"
    compile_model(small_models.tiny_network(), path, threads=1)
    return path


@pytest.mark.e2e
def test_a_board_returns_the_integers_and_its_times(farm, program):
    from aqd_deploy.runtime.program import Program

    loaded = Program.load(program)
    device = open_device(farm.tracker.text)
    for seed in (0, 1):
        inputs = loaded.random_inputs(seed)
        expected, outputs = loaded.run(inputs), device.run(program, inputs, threads=1)
        assert list(outputs) == list(expected)
        for name in expected:
            assert outputs[name].dtype == expected[name].dtype
            np.testing.assert_array_equal(outputs[name], expected[name])
    seconds = device.time(program, repeats=4, warmup=2, threads=1)
    assert device.used_threads == 1
    assert len(seconds) == 4 and all(value > 0 for value in seconds)
    with pytest.raises(ShapeError, match="missing"):
        device.run(program, {})
    device.close()
    assert farm.sessions(0) == 1


@pytest.mark.e2e
def test_a_program_of_another_version(farm, tmp_path):
    with pytest.raises(ProgramError, match="another version"):
        open_device(farm.tracker.text).run(write_program(tmp_path / "m.so"), INPUTS)


@pytest.mark.e2e
def test_a_key_that_no_board_has(farm, program):
    text = farm.tracker.text.replace("/board", "/bored")
    with pytest.raises(DeviceError, match=r"no board with this key.*valid: board.*rpc_server"):
        open_device(text).run(program, {})


def test_no_tracker_and_what_is_none():
    with pytest.raises(DeviceError, match=r"no tracker answers there.*rpc_tracker"):
        Tracker("127.0.0.1", 1, "board").servers()
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer():
            connection, _ = other.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 400 Bad Request")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(DeviceError, match="no tracker"):
            Tracker("127.0.0.1", other.getsockname()[1], "board").servers()
        thread.join()
