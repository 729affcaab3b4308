"""The texts that name devices, the device of this process, and emulation."""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from fake_bundles import INPUTS, OUTPUTS, bundler, write_program

from aqd_deploy.cli.main import invoke
from aqd_deploy.devices import bundles, open_device, qemu
from aqd_deploy.devices.bundles import Bundles
from aqd_deploy.devices.qemu import QemuDevice
from aqd_deploy.errors import AqdError, BundleError, DeviceError, MissingExtraError, ProgramError, ShapeError
from aqd_deploy.runtime.container import Container
from aqd_deploy.runtime.program import check_runnable
from aqd_deploy.targets import Cpu, architectures
from aqd_deploy.targets.architectures import Emulation


@pytest.mark.parametrize(
    "text",
    [
        "local",
        "qemu",
        "qemu:cortex-a72",
        "ssh:pi@board",
        "ssh:pi@192.168.1.9:2222",
        "ssh:board",
        "ssh:pi@[::1]:22",
    ],
)
def test_names_of_devices(text):
    device = open_device(text)
    assert device.text == text
    device.close()


@pytest.mark.parametrize(
    "text",
    [
        "", "gpu", "local:1", "qemu:", "qemu:a b", "ssh:", "ssh:pi@", "ssh:-oProxyCommand=x@y", "ssh:pi@-x",
        "ssh:pi@board:0", "ssh:pi@board:70000", "ssh:pi@board:x", "rpc:board/key", "rpc:board:9190",
        "rpc:b:0/k",
    ],
)  # fmt: skip
def test_other_names_are_refused(text):
    with pytest.raises(DeviceError, match=r"local, qemu|rpc:HOST:PORT/KEY"):
        open_device(text)


def fake_qemu(folder: Path, models="cortex-a72 cortex-a76 max") -> None:
    """A qemu that writes its arguments down and runs the runner as it is."""
    path = folder / "qemu-aarch64-static"
    listing = "; ".join(f"echo '  {model}'" for model in models.split())
    path.write_text(
        f"#!/bin/sh\nif [ \"$2\" = help ]; then echo 'Available CPUs:'; {listing}; exit 0; fi\n"
        f'echo "$*" > {folder}/called\nwhile [ "${{1#-}}" != "$1" ]; do shift 2; done\nexec "$@"\n'
    )
    path.chmod(0o755)


@pytest.fixture
def emulated(tmp_path, monkeypatch):
    """A folder with a fake qemu, the first of PATH."""
    fake_qemu(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("QEMU_LD_PREFIX", "/")
    qemu._models.cache_clear()
    yield tmp_path
    qemu._models.cache_clear()


@pytest.mark.parametrize(
    "cpu, target, chosen",
    [
        (None, {"cpu": "cortex-a72"}, "cortex-a72"),
        (None, {"cpu": "cortex-a78", "features": ["asimd", "asimddp"]}, "cortex-a76"),
        (None, {"cpu": "neoverse-v1", "features": ["asimddp", "i8mm"]}, "max"),
        (None, {"cpu": "generic", "features": ["asimd"]}, "cortex-a72"),
        ("max", {"cpu": "cortex-a72"}, "max"),
    ],
)
def test_emulation_returns_the_outputs_and_chooses_the_cpu(cpu, target, chosen, emulated):
    program = write_program(emulated / "m.so", architecture="aarch64", **target)
    device = QemuDevice(cpu, Bundles(bundler()))
    outputs = device.run(program, INPUTS, threads=1)
    assert {name: array.tolist() for name, array in outputs.items()} == {
        name: array.tolist() for name, array in OUTPUTS.items()
    }
    assert (emulated / "called").read_text().startswith(f"-cpu {chosen} /")
    device.close()


def test_bad_input_of_emulation(emulated, monkeypatch):
    program = write_program(emulated / "m.so", architecture="aarch64", cpu="cortex-a72")
    made = Bundles(bundler())
    with pytest.raises(DeviceError, match=r"unknown CPU.*cortex-a99.*cortex-a72, cortex-a76"):
        QemuDevice("cortex-a99", made).run(program, INPUTS)
    with pytest.raises(ShapeError, match="image is missing"):
        QemuDevice(None, made).run(program, {})
    with pytest.raises(ProgramError, match="not emulated"):
        QemuDevice(None, made).run(write_program(emulated / "x.so"), INPUTS)
    with pytest.raises(DeviceError, match="SIGILL"):
        QemuDevice(None, Bundles(bundler("kill -ILL $$"))).run(program, INPUTS)
    monkeypatch.delenv("QEMU_LD_PREFIX")
    nowhere = replace(
        architectures.get("aarch64"),
        gnu_triples=("none-gnu",),
        emulation=Emulation("aarch64", "libs-cross", (("", "max"),)),
    )
    monkeypatch.setattr(architectures, "ARCHITECTURES", (nowhere,))
    with pytest.raises(MissingExtraError, match="apt-get install libs-cross"):
        QemuDevice(None, made).run(program, INPUTS)
    monkeypatch.setenv("PATH", str(emulated / "empty"))
    with pytest.raises(MissingExtraError, match="apt-get install qemu-user-static"):
        QemuDevice(None, made).run(program, INPUTS)


@pytest.mark.needs_qemu
@pytest.mark.parametrize(
    "name, cpu", [("qemu-aarch64-static", "cortex-a72"), ("qemu-arm-static", "cortex-a15")]
)
def test_the_models_of_the_real_qemu(name, cpu):
    path = shutil.which(name)
    assert path is not None
    assert cpu in qemu._models(path)


def test_a_folder_that_is_no_bundle(tmp_path):
    with pytest.raises(ProgramError, match=r"without program.so and aqd-run.*package"):
        open_device("local").run(tmp_path, INPUTS)


def test_a_bundle_is_made_once_and_removed(tmp_path):
    made = []

    def create(program, folder):
        made.append(folder)
        bundler()(program, folder)

    program = write_program(tmp_path / "m.so")
    found = Bundles(create)
    assert found.get(program) is found.get(program)
    assert found.get(made[0]).folder == made[0]
    write_program(program, name="changed")
    found.get(program)
    assert len(made) == 2
    found.close()
    assert not any(folder.exists() for folder in made)


def test_what_the_making_of_a_bundle_tells_names_the_users_program(tmp_path):
    program = write_program(tmp_path / "m.so")
    copies = []

    def create(copy, folder):
        copies.append(copy)
        raise BundleError(f"{copy} is no good", received=copy, next_command=f"compile -o {copy}")

    with contextlib.closing(Bundles(create)) as found, pytest.raises(BundleError) as raised:
        found.get(program)
    assert str(raised.value) == f"{program} is no good; got {program}; try: compile -o {program}"
    assert copies[0] != program and not copies[0].exists()


@pytest.fixture
def arrays(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, **INPUTS)
    return path


def test_run_on_an_emulated_device(emulated, arrays, monkeypatch, capsys):
    monkeypatch.setattr(bundles, "make_bundle", bundler())
    program = write_program(emulated / "m.so", architecture="aarch64", cpu="cortex-a72")
    out = emulated / "y.npz"
    assert invoke(["run", str(program), "--input", str(arrays), "-o", str(out), "--device", "qemu"]) == 0
    assert capsys.readouterr().out.startswith("scores  int32  1x4x2x3\n")
    with np.load(out) as found:
        np.testing.assert_array_equal(found["scores"], OUTPUTS["scores"])


@pytest.mark.parametrize("architecture", [*architectures.emulated(), "riscv64"])
def test_a_foreign_program_without_a_device_names_the_way_out(architecture, tmp_path):
    """Emulation, where there is one: qemu refuses the others."""
    target = {"name": "board", "architecture": architecture, "features": []}
    program = {"tvm_version": metadata.version("apache-tvm"), "target": target}
    here = Cpu("x86_64", "here", frozenset(), 1)
    with pytest.raises(ProgramError, match=r"another CPU than this one") as caught:
        check_runnable(Container(tmp_path / "m.so", {"program": program}, b"", 0), here)
    assert ("--device qemu" in str(caught.value)) == (architecture in architectures.emulated())


def test_emulated_times_are_refused(emulated, capsys, monkeypatch):
    monkeypatch.setattr(bundles, "make_bundle", bundler())
    program = write_program(emulated / "m.so", architecture="aarch64", cpu="cortex-a72")
    assert invoke(["bench", str(program), "--device", "qemu"]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: times under emulation say nothing about the chip")


@pytest.fixture
def profile(tmp_path, monkeypatch):
    """Write the profile `door`, whose device is the argument."""
    monkeypatch.setenv("AQD_DEPLOY_TARGETS", str(tmp_path / "profiles"))
    (tmp_path / "profiles").mkdir()

    def write(device):
        text = f'description = "a camera"\nextends = "raspberrypi-4"\ndevice = "{device}"\n'
        (tmp_path / "profiles" / "door.toml").write_text(text)

    return write


def test_the_device_of_the_profile(profile, tmp_path, arrays, capsys):
    from aqd_deploy.cli.options import device_for

    profile("qemu:cortex-a72")
    program = write_program(tmp_path / "m.so", architecture="aarch64", name="door")
    assert device_for(program, None) == "qemu:cortex-a72"
    assert capsys.readouterr().err == (
        "on qemu:cortex-a72, the device of the profile door; --device local for this machine\n"
    )
    assert device_for(program, "local") == "local"
    assert device_for(tmp_path / "m.onnx", None) == "local"
    assert device_for(write_program(tmp_path / "n.so", name="raspberrypi-4"), None) == "local"
    assert device_for(write_program(tmp_path / "o.so", name="of another machine"), None) == "local"
    assert capsys.readouterr().err == ""
    assert invoke(["bench", str(program)]) == 1
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("on qemu:cortex-a72,") and "say nothing about the chip" in told[1]


def test_tuning_on_the_device_of_the_profile(profile, tmp_path, capsys):
    profile("ssh:pi@door")
    model = tmp_path / "m.onnx"
    model.write_bytes(b"never read")
    assert invoke(["tune", str(model), "--target", "door"]) == 1
    told = capsys.readouterr().err
    assert "on ssh:pi@door, the device of the profile door" in told
    assert "got 'ssh:pi@door'; valid: local, rpc:HOST:PORT/KEY" in told


def test_what_only_this_machine_measures_is_refused(tmp_path, capsys):
    program = write_program(tmp_path / "m.so")
    for options in (["--layers"], ["--memory"], ["--against", "onnxruntime"]):
        assert invoke(["bench", str(program), "--device", "ssh:board", *options]) == 1
        assert f"{options[0]} measures on this machine only" in capsys.readouterr().err


def test_reference_files_run_here(tmp_path):
    from aqd_deploy.workflow.runners import open_runner

    with pytest.raises(AqdError, match="compiled programs"):
        open_runner(tmp_path / "m.onnx", device="qemu")
