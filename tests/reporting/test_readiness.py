"""doctor --target: what compiling for a device needs, what is missing, and the command that installs it."""

import json
import os
from dataclasses import replace

import pytest
from needs import need

from aqd_deploy import targets
from aqd_deploy.bundle.runtime_libraries import kept_folder
from aqd_deploy.cli.main import invoke
from aqd_deploy.compiler.toolchain import native_toolchain
from aqd_deploy.reporting.readiness import readiness
from aqd_deploy.targets import architectures, cards

COMPILER, PATH = native_toolchain(), os.environ["PATH"]


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A path without any program, and no ziglang."""
    from aqd_deploy.compiler import toolchain

    monkeypatch.setenv("PATH", str(tmp_path))
    for variable in ("CXX", "CC", "CONDA_PREFIX"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: None)


def states(document):
    return {check["what"]: check["state"] for check in document["checks"]}


def test_this_machine_is_ready():
    document = readiness(targets.get("host"))
    assert document["ready"]
    # Where zig is installed, it makes the runner; it is not tried.
    assert set(states(document).values()) <= {"ok", "untried"}
    assert set(states(document)) == {
        "kernels", "compiler", "temporary files", "linking", "C++ compiler", "TVM's runtime", "cache",
        "this machine",
    }  # fmt: skip


def put_compiler(path, before=""):
    """This machine's compiler under the name `path`, behind a line of shell."""
    path.write_text(f"#!/bin/sh\n{before}\nPATH='{PATH}' exec {COMPILER} \"$@\"\n")
    path.chmod(0o755)


def test_a_compiler_for_c_alone_is_not_enough_for_package(tmp_path, bare, capsys):
    """`package` compiles C++, so `doctor` looks for it."""
    put_compiler(tmp_path / "gcc")
    document = readiness(targets.get("host"))
    found = states(document)
    assert (found["compiler"], found["C++ compiler"]) == ("ok", "missing")
    assert invoke(["doctor"]) == 1
    assert "error: not ready: package: C++ compiler: no C++ compiler for" in capsys.readouterr().err


def test_a_compiler_that_cannot_make_the_runner(tmp_path, bare):
    """One that links, and has no C++ library."""
    put_compiler(tmp_path / "c++", "case \"$*\" in *.cc*) echo 'no <string>' >&2; exit 1;; esac")
    document = readiness(targets.get("host"))
    found = {check["what"]: check for check in document["checks"]}
    assert found["linking"]["state"] == "ok" and found["C++ compiler"]["state"] == "broken"
    assert "no <string>" in found["C++ compiler"]["detail"]
    assert "apt-get install g++" in found["C++ compiler"]["next_command"]


def test_folders_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/cache")
    found = {check["what"]: check for check in readiness(targets.get("host"))["checks"]}
    assert found["cache"]["state"] == "missing" and "XDG_CACHE_HOME=FOLDER" in found["cache"]["next_command"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert states(readiness(targets.get("host")))["cache"] == "ok"
    assert not (tmp_path / "cache").exists()


@pytest.mark.skipif(
    targets.read_cpu().architecture == "aarch64", reason="the board is no foreign device here"
)
def test_emulation_is_looked_at_as_it_is_used(tmp_path, monkeypatch):
    """QEMU_LD_PREFIX counts, and what is not emulated is not called ready."""
    document = readiness(targets.get("rpi4"))
    assert {"emulator", "its libraries", "OpenSSH client"} <= set(states(document))
    monkeypatch.setenv("QEMU_LD_PREFIX", str(tmp_path))
    assert states(readiness(targets.get("rpi4")))["its libraries"] == "ok"
    monkeypatch.delenv("QEMU_LD_PREFIX")
    nowhere = replace(architectures.get("aarch64"), gnu_triples=("nowhere",))
    others = [each for each in architectures.ARCHITECTURES if each.name != "aarch64"]
    monkeypatch.setattr(architectures, "ARCHITECTURES", (*others, nowhere))
    found = {check["what"]: check for check in readiness(targets.get("rpi4"))["checks"]}
    assert found["its libraries"]["next_command"] == "apt-get install libstdc++6-arm64-cross"


@pytest.mark.needs_cross
@pytest.mark.parametrize("name", ["raspberrypi-4", "armv7-neon"])
def test_a_foreign_device_with_its_compiler(name):
    need("aarch64-linux-gnu-g++", "arm-linux-gnueabihf-g++")
    document = readiness(targets.get(name))
    assert document["ready"] and states(document)["linking"] == "ok"
    assert json.loads(json.dumps(document)) == document


@pytest.mark.skipif(
    targets.read_cpu().architecture == "aarch64", reason="the board is no foreign device here"
)
def test_a_foreign_device_without_anything(bare, capsys):
    assert invoke(["doctor", "--target", "rpi4"]) == 1
    captured = capsys.readouterr()
    assert "apt-get install g++-aarch64-linux-gnu" in captured.out
    assert "apt-get install qemu-user-static" in captured.out
    assert "error: not ready to compile for raspberrypi-4: no C++ compiler for aarch64" in captured.err
    assert max(map(len, captured.out.split("\n\n")[1].splitlines())) <= 80


@pytest.mark.needs_cross
@pytest.mark.parametrize("name", ["raspberrypi-4", "armv7-neon"])
def test_where_the_runtime_of_a_board_comes_from(name, tmp_path, monkeypatch):
    need("aarch64-linux-gnu-g++", "arm-linux-gnueabihf-g++")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    target = targets.get(name)
    assert states(readiness(target))["TVM's runtime"] == "later"
    kept_folder(target).mkdir(parents=True)
    assert states(readiness(target))["TVM's runtime"] == "ok"


def test_a_runtime_that_cannot_be_made(bare):
    document = readiness(targets.get("armv7-neon"))
    runtime = next(check for check in document["checks"] if check["what"] == "TVM's runtime")
    assert runtime["state"] == "missing" and "g++-arm-linux-gnueabihf" in runtime["next_command"]


def test_a_broken_compiler_is_found_out(tmp_path, monkeypatch):
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho 'no crt1.o' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    document = readiness(targets.get("host"))
    linking = next(check for check in document["checks"] if check["what"] == "linking")
    assert not document["ready"] and linking["state"] == "broken" and "no crt1.o" in linking["detail"]


@pytest.fixture
def foreign_profile(tmp_path, monkeypatch):
    """The path of a mark that the compiler of the profile `found` leaves where it is run."""
    mark, compiler, folder = tmp_path / "was-run", tmp_path / "compiler", tmp_path / "profiles"
    compiler.write_text(f"#!/bin/sh\ntouch '{mark}'\nexec cc \"$@\"\n")
    compiler.chmod(0o755)
    folder.mkdir()
    # For this machine, so that the C compiler behind it can do what is asked.
    (folder / "found.toml").write_text(
        f'description = "from somebody"\nextends = "x86-64-v2"\ntoolchain = "{compiler} -O1"\n'
    )
    (folder / "board.toml").write_text(
        f'description = "from somebody"\nextends = "armv7-neon"\ntoolchain = "{compiler}"\n'
    )
    monkeypatch.setenv("AQD_DEPLOY_TARGETS", str(folder))
    return mark


@pytest.mark.parametrize("name", ["found", "board"])
@pytest.mark.parametrize("verb", [["targets", "list"], ["targets", "show", "NAME"], ["doctor"],
                                  ["doctor", "--target", "NAME"]], ids=" ".join)  # fmt: skip
def test_looking_at_a_profile_does_not_run_its_toolchain(foreign_profile, name, verb, capsys):
    words = [name if word == "NAME" else word for word in verb]
    assert invoke([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert not foreign_profile.exists()
    if verb[-1] == "NAME" and verb[0] == "targets":
        assert document["toolchain_found"]["state"] == "ok"
        assert str(foreign_profile.with_name("compiler")) in document["toolchain_found"]["detail"]
    if verb[-1] == "NAME" and verb[0] == "doctor":
        assert states(document)["linking"] == "untried" and document["ready"]


@pytest.mark.skipif(targets.read_cpu().architecture != "x86_64", reason="its compiler is this machine's")
def test_a_toolchain_is_tried_where_that_is_asked(foreign_profile, capsys):
    assert invoke(["doctor", "--target", "found", "--try-toolchain", "--json"]) == 0
    assert states(json.loads(capsys.readouterr().out))["linking"] == "ok"
    assert foreign_profile.exists()
    assert invoke(["doctor", "--target", "board", "--try-toolchain"]) == 1
    assert "makes code for another machine" in capsys.readouterr().err
    assert invoke(["doctor", "--try-toolchain"]) == 2


def test_unknown_target(capsys):
    assert invoke(["doctor", "--target", "raspberypi-4"]) == 1
    assert "nearest raspberrypi-4" in capsys.readouterr().err


def test_show_tells_what_will_be_emitted(bare, capsys):
    assert invoke(["targets", "show", "pi5"]) == 0
    text = capsys.readouterr().out
    for told in (
        "raspberrypi-5, rpi5",
        "aarch64-linux-gnu",
        "cortex-a76",
        "asimddp",
        "-lse",
        "17.1 GB/s",
        "kernels",
    ):
        assert told in text
    if targets.read_cpu().architecture != "aarch64":
        assert "apt-get install" in text
    assert invoke(["targets", "show", "pi5", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["tvm_target"]["mcpu"] == "cortex-a76" and document["sources"]["clock_ghz"]


def test_a_card_asks_for_its_own_compiler_and_driver(tmp_path, monkeypatch):
    monkeypatch.setattr("aqd_deploy.targets.cards.LIBRARY", "libno-such-driver.so.1")
    cards.driver.cache_clear()
    monkeypatch.setenv("CUDA_PATH", str(tmp_path))
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text("#!/bin/sh\necho Cuda compilation tools, release 13.0, V13.0.88\n")
    nvcc.chmod(0o755)
    document = readiness(targets.get("jetson-orin-nano-gpu"))
    told = {check["what"]: (check["state"], check["detail"]) for check in document["checks"]}
    assert document["ready"] and list(told) == ["kernels", "compiler", "temporary files", "NVIDIA's driver"]
    assert told["kernels"] == ("ok", "cuda, sm_87")
    assert told["compiler"] == ("ok", f"{nvcc} (CUDA 13.0, CUDA_PATH)")
    assert told["NVIDIA's driver"][0] == "missing"
