"""`ssh:` against a real OpenSSH server: copying, running, errors, and what is left on the board."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from fake_bundles import INPUTS, OUTPUTS, bundler, write_program

from aqd_deploy.cli.main import invoke
from aqd_deploy.devices import bundles
from aqd_deploy.devices.bundles import Bundles
from aqd_deploy.devices.ssh import SshDevice
from aqd_deploy.devices.ssh_client import OPTIONS_VARIABLE
from aqd_deploy.errors import AqdError, DeviceError, ProgramError

pytestmark = pytest.mark.needs_sshd

RELAY = Path(__file__).parent / "cut_relay.py"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    from ssh_server import ssh_server

    with ssh_server(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture(autouse=True)
def options(server, monkeypatch):
    monkeypatch.setenv(OPTIONS_VARIABLE, server.options)


@pytest.fixture
def open_ssh(server):
    """Make devices of the server; they are closed behind the test."""
    made = []

    def make(*arguments, **keywords):
        device = SshDevice(server.destination, server.port, Bundles(bundler(*arguments, **keywords)))
        made.append(device)
        return device

    yield make
    for device in made:
        device.close()


def wait_until(holds, seconds=20):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.02)


def is_clean(server):
    """Whether the board has nothing but files named by the hash of their content."""
    return all(
        path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == path.name
        for path in server.cache.iterdir()
    )


def assert_outputs(outputs):
    assert list(outputs) == list(OUTPUTS)
    for name, expected in OUTPUTS.items():
        assert outputs[name].dtype == expected.dtype
        np.testing.assert_array_equal(outputs[name], expected)


def test_outputs_and_times_come_back_and_nothing_stays(server, open_ssh, tmp_path):
    program = write_program(tmp_path / "m.so")
    device = open_ssh()
    assert_outputs(device.run(program, INPUTS, threads=1))
    assert device.time(program, repeats=3, warmup=1) == [0.25, 0.25, 0.25]
    assert is_clean(server)


def test_the_input_arrives_as_it_was_sent(server, open_ssh, tmp_path):
    device = open_ssh(f'cp "$image" {tmp_path}/arrived.npy')
    device.run(write_program(tmp_path / "m.so"), INPUTS)
    np.testing.assert_array_equal(np.load(tmp_path / "arrived.npy"), INPUTS["image"])


def test_only_what_changed_is_copied(server, open_ssh, tmp_path):
    program = write_program(tmp_path / "m.so")
    open_ssh(weights=200_000).run(program, INPUTS)
    before = {path.name: path.stat().st_ino for path in server.cache.iterdir()}
    changed = write_program(tmp_path / "m.so", name="changed")
    device = open_ssh(weights=200_000)
    sent = []
    call = device._client.call

    def recorded(script, arguments, data=b""):
        sent.append(len(data))
        return call(script, arguments, data)

    object.__setattr__(device._client, "call", recorded)
    device.run(changed, INPUTS)
    after = {path.name: path.stat().st_ino for path in server.cache.iterdir()}
    assert set(after) - set(before) == {hashlib.sha256(changed.read_bytes()).hexdigest()}
    assert {name: after[name] for name in before} == before
    assert sum(sent) < 100_000
    sent.clear()
    device.run(changed, INPUTS)
    assert len(sent) == 1, "a second run needs one connection"


def test_verbs_take_the_device(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bundles, "make_bundle", bundler())
    program, arrays = write_program(tmp_path / "m.so"), tmp_path / "x.npz"
    np.savez(arrays, **INPUTS)
    assert invoke(["run", str(program), "--input", str(arrays), "--device", server.device]) == 0
    assert capsys.readouterr().out.startswith("scores  int32  1x4x2x3\n")
    asked = ["--device", server.device, "--rounds", "2", "--runs", "3", "--threads", "1", "--json"]
    assert invoke(["bench", str(program), *asked]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["device"] == server.device
    (measured,) = document["measured"]
    assert measured["contenders"]["aqd-deploy"]["rounds_ms"] == [250.0, 250.0]
    assert invoke(["bench", str(program), *asked[:-1], "--max-ms", "249"]) == 3
    assert f"fake on {server.device}" in " ".join(capsys.readouterr().out.split())


def test_a_profile_names_the_device(server, tmp_path, monkeypatch, capsys):
    (tmp_path / "door.toml").write_text(
        f'description = "the camera"\nextends = "x86-64-v2"\ndevice = "{server.device}"\n'
    )
    monkeypatch.setenv("AQD_DEPLOY_TARGETS", str(tmp_path))
    monkeypatch.setattr(bundles, "make_bundle", bundler())
    program, arrays = write_program(tmp_path / "m.so", name="door"), tmp_path / "x.npz"
    np.savez(arrays, **INPUTS)
    assert invoke(["run", str(program), "--input", str(arrays), "-o", str(tmp_path / "y.npz")]) == 0
    assert f"on {server.device}, the device of the profile door; --device local" in capsys.readouterr().err
    with np.load(tmp_path / "y.npz") as found:
        np.testing.assert_array_equal(found["scores"], OUTPUTS["scores"])
    assert invoke(["bench", str(program), "--rounds", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["device"] == server.device


def test_a_connection_cut_while_it_runs(server, open_ssh, tmp_path):
    program = write_program(tmp_path / "m.so")
    flag = tmp_path / "started"
    device = open_ssh(f"[ -e {flag} ] || {{ touch {flag}; exec sleep 60; }}")
    cutting = threading.Thread(target=lambda: (wait_until(flag.exists), server.cut()))
    cutting.start()
    with pytest.raises(DeviceError, match=r"the connection was lost.*try: the same command"):
        device.run(program, INPUTS)
    cutting.join()
    wait_until(lambda: is_clean(server))
    assert_outputs(device.run(program, INPUTS))
    assert is_clean(server)


def test_a_connection_cut_while_it_copies(server, open_ssh, tmp_path, monkeypatch):
    program = write_program(tmp_path / "m.so", name="cut while copying")
    known = set(server.cache.iterdir()) if server.cache.exists() else set()
    device = open_ssh(weights=3_000_000)
    relay = f"{sys.executable} {RELAY} {server.port} 1000000"
    monkeypatch.setenv(OPTIONS_VARIABLE, f"{server.options} -o 'ProxyCommand={relay}'")
    with pytest.raises(DeviceError, match="the connection was lost"):
        device.run(program, INPUTS)
    wait_until(lambda: is_clean(server))
    assert set(server.cache.iterdir()) == known, "a part of a copy stayed"
    monkeypatch.setenv(OPTIONS_VARIABLE, server.options)
    assert_outputs(device.run(program, INPUTS))
    assert is_clean(server)


def test_the_folder_of_a_killed_script_goes_the_next_time(server, open_ssh, tmp_path):
    free = next(pid for pid in range(300_000, 400_000) if not psutil.pid_exists(pid))
    server.cache.mkdir(parents=True, exist_ok=True)
    (server.cache / f".run-{os.uname().nodename}-{free}-abcdef").mkdir()
    alive = server.cache / f".run-{os.uname().nodename}-{os.getpid()}-abcdef"
    alive.mkdir()
    open_ssh().run(write_program(tmp_path / "m.so"), INPUTS)
    assert alive.exists()
    alive.rmdir()
    assert is_clean(server)


def test_what_the_runner_says_is_the_error(server, open_ssh, tmp_path):
    program = write_program(tmp_path / "m.so")
    with pytest.raises(DeviceError, match=r"this CPU lacks asimddp$"):
        open_ssh("echo 'aqd-run: this CPU lacks asimddp' >&2; exit 1").run(program, INPUTS)
    with pytest.raises(DeviceError, match="SIGILL"):
        open_ssh("kill -ILL $$").run(program, INPUTS)
    with pytest.raises(DeviceError, match="cannot be read"):
        open_ssh("echo no JSON; exit 0").run(program, INPUTS)
    assert is_clean(server)


def test_a_board_of_another_architecture(server, open_ssh, tmp_path):
    program = write_program(tmp_path / "m.so", architecture="aarch64", cpu="cortex-a76")
    with pytest.raises(ProgramError, match=r"another CPU.*aarch64.*a device that is \w+.*--target"):
        open_ssh().run(program, INPUTS)


@pytest.mark.parametrize(
    "key, hosts, sentence",
    [
        ("other_key", "known_hosts", "does not accept this key.*ssh-copy-id -p"),
        ("missing_key", "known_hosts", "does not accept this key.*ssh-copy-id -p"),
        ("user_key", "no_hosts", "host key is not the known one, or not known yet"),
        ("user_key", "wrong_hosts", "host key is not the known one.*ssh-keygen -R"),
    ],
)
def test_keys_that_do_not_fit(key, hosts, sentence, server, open_ssh, tmp_path, monkeypatch):
    monkeypatch.setenv(OPTIONS_VARIABLE, server.options_with(key, hosts))
    with pytest.raises(DeviceError, match=sentence) as caught:
        open_ssh().run(write_program(tmp_path / "m.so"), INPUTS)
    assert "\n" not in caught.value.sentence()


def test_boards_that_are_not_there(server, tmp_path, monkeypatch):
    program = write_program(tmp_path / "m.so")
    with pytest.raises(DeviceError, match="nothing listens on that port"):
        SshDevice("127.0.0.1", 1, Bundles(bundler())).run(program, INPUTS)
    with pytest.raises(DeviceError, match="name is unknown"):
        SshDevice("no-such-board.invalid", None, Bundles(bundler())).run(program, INPUTS)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AqdError, match="openssh-client"):
        SshDevice("127.0.0.1", 1, Bundles(bundler())).run(program, INPUTS)


def test_noise_of_the_login_shell_is_no_data(server, open_ssh, tmp_path, monkeypatch):
    from aqd_deploy.devices import ssh_scripts

    for name in ("LIST", "COPY", "RUN"):
        monkeypatch.setattr(ssh_scripts, name, "echo Welcome\n" + getattr(ssh_scripts, name))
    assert_outputs(open_ssh().run(write_program(tmp_path / "m.so", name="noise"), INPUTS))


@pytest.mark.skipif(importlib.util.find_spec("aqd_deploy.bundle") is None, reason="needs aqd_deploy.bundle")
@pytest.mark.e2e
def test_a_real_bundle(server, tmp_path, monkeypatch):
    import small_models

    from aqd_deploy.compiler import compile_model
    from aqd_deploy.devices import open_device
    from aqd_deploy.runtime.program import Program

    program = tmp_path / "m.so"
    compile_model(small_models.tiny_network(), program, threads=1)
    loaded = Program.load(program)
    inputs = loaded.random_inputs()
    expected = loaded.run(inputs)
    device = open_device(server.device)
    outputs = device.run(program, inputs)
    assert list(outputs) == list(expected)
    for name in expected:
        np.testing.assert_array_equal(outputs[name], expected[name])
    assert all(seconds > 0 for seconds in device.time(program, repeats=2))
    device.close()
    assert is_clean(server)
