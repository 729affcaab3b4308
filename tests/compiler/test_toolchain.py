"""The toolchain of a target: found in the right order, looked at, and told with its command where missing."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
from needs import need

from aqd_deploy import targets
from aqd_deploy.compiler import toolchain
from aqd_deploy.compiler.toolchain import (
    check_machine,
    find_portable_toolchain,
    find_toolchain,
    locate_toolchain,
    native_toolchain,
)
from aqd_deploy.errors import MissingExtraError, TargetError, ToolchainError
from aqd_deploy.targets import architectures

HERE = targets.read_cpu().architecture
ABROAD = "raspberrypi-4" if HERE != "aarch64" else "x86-64-v2"
FOREIGN = targets.get(ABROAD)


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """A path on which only the programs that the test puts there are found, and no ziglang."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    for variable in ("CXX", "CC", "CONDA_PREFIX"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: None)

    def put(name, answer=""):
        path = folder / name
        path.write_text(f"#!/bin/sh\necho '{answer}'\n")
        path.chmod(0o755)
        return str(path)

    return put


def test_the_order(tools, monkeypatch):
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: object())
    zig = find_toolchain(FOREIGN)
    triple = architectures.get(FOREIGN.architecture).gnu_triple
    assert zig.origin == "zig"
    assert zig.command[:-1] == (sys.executable, "-m", "ziglang", "c++", "-target")
    assert zig.command[-1].startswith(triple)
    assert zig.link_command == (*zig.command[:3], "cc", *zig.command[4:])
    cross = tools(f"{triple}-g++")
    assert find_toolchain(FOREIGN).command == (cross,)
    own = tools("board-g++", answer=f"{FOREIGN.architecture}-none-linux")
    named = find_toolchain(replace(FOREIGN, toolchain="board-g++ --sysroot=/board"))
    assert (named.command, named.origin) == ((own, "--sysroot=/board"), "profile")


def test_zig_goes_first_for_old_systems(tools, monkeypatch):
    cross = tools(f"{architectures.get(FOREIGN.architecture).gnu_triple}-g++")
    assert find_portable_toolchain(FOREIGN).command == (cross,)
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: object())
    portable = find_portable_toolchain(FOREIGN)
    assert (portable.origin, portable.architecture) == ("zig", FOREIGN.architecture)
    tools("board-g++", answer=f"{FOREIGN.architecture}-none-linux")
    assert find_portable_toolchain(replace(FOREIGN, toolchain="board-g++")).origin == "profile"


def test_the_host_compiler_is_never_taken_for_a_foreign_target(tools):
    for name in toolchain.NATIVE:
        tools(name)
    with pytest.raises(MissingExtraError) as caught:
        find_toolchain(FOREIGN)
    sentence = caught.value.sentence()
    package = architectures.get(FOREIGN.architecture).compiler_package
    assert ABROAD in sentence and f"apt-get install {package}" in sentence
    assert "pip install 'aqd-deploy[cross]'" in sentence


def test_native_compilers(tools):
    with pytest.raises(MissingExtraError, match=r"no C\+\+ compiler .* or the key toolchain of a profile"):
        native_toolchain()
    path = tools("clang++")
    assert native_toolchain().command == (path,)
    assert find_toolchain(targets.get("host")).command == (path,)


@pytest.mark.parametrize("origin", ["CXX", "CC"])
def test_what_the_environment_names(tools, monkeypatch, origin):
    tools("c++", answer=f"{HERE}-linux-gnu")
    mine = tools("my-compiler", answer=f"{HERE}-linux-gnu")
    monkeypatch.setenv(origin, "my-compiler -B'/a b'")
    host = targets.get("host")
    found = find_toolchain(host)
    assert (found.command, found.origin) == ((mine, "-B/a b"), origin)
    assert find_toolchain(host, cplusplus=True).origin == ("CXX" if origin == "CXX" else "native")
    monkeypatch.setenv(origin, "is-not-there")
    assert find_toolchain(host).origin == "native"
    monkeypatch.setenv(origin, "'unclosed")
    assert find_toolchain(host).origin == "native"


def test_a_compiler_for_a_machine_that_nobody_knows(tools, monkeypatch):
    tools("c++", answer=f"{HERE}-linux-gnu")
    tools("nova-g++", answer="nova64-unknown-linux-gnu")
    monkeypatch.setenv("CXX", "nova-g++")
    assert find_toolchain(targets.get("host")).origin == "native"
    with pytest.raises(TargetError, match="compiles for nova64"):
        find_toolchain(replace(FOREIGN, toolchain="nova-g++"))


def test_the_environment_of_a_boards_sdk(tools, monkeypatch):
    """CXX is for the board there: it is not taken for this machine, and found for the board."""
    tools("c++", answer=f"{HERE}-linux-gnu")
    board = tools("board-g++", answer=f"{FOREIGN.architecture}-poky-linux")
    monkeypatch.setenv("CXX", "board-g++ --sysroot=/board")
    assert find_toolchain(targets.get("host")).origin == "native"
    assert find_toolchain(FOREIGN).command == (board, "--sysroot=/board")


@pytest.mark.parametrize("variable", ["CONDA_PREFIX", "PATH", "prefix of this Python"])
@pytest.mark.parametrize("target", [targets.get("host"), FOREIGN], ids=["host", "foreign"])
def test_compilers_of_conda(target, variable, tools, tmp_path, monkeypatch):
    triple = {"x86_64": "x86_64-conda-linux-gnu", "aarch64": "aarch64-conda-linux-gnu"}[target.architecture]
    folder = tmp_path / "conda" / "bin"
    folder.mkdir(parents=True)
    compiler = folder / f"{triple}-c++"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    if variable == "PATH":
        monkeypatch.setenv("PATH", str(folder))
    elif variable == "CONDA_PREFIX":
        monkeypatch.setenv("CONDA_PREFIX", str(folder.parent))
    else:
        monkeypatch.setattr(toolchain.sys, "prefix", str(folder.parent))
    assert find_toolchain(target, cplusplus=True).command == (str(compiler),)


@pytest.mark.parametrize("target", [targets.get("host"), FOREIGN], ids=["host", "foreign"])
def test_a_compiler_for_c_alone_links_and_no_more(target, tools):
    name = (
        "gcc" if target.architecture == HERE else f"{architectures.get(target.architecture).gnu_triple}-gcc"
    )
    path = tools(name)
    assert find_toolchain(target).command == (path,)
    for find in (find_portable_toolchain, lambda target: find_toolchain(target, cplusplus=True)):
        with pytest.raises(
            MissingExtraError, match=rf"no C\+\+ compiler .*; got {path}, which compiles C; .*try"
        ):
            find(target)


@pytest.mark.parametrize("name", ["board-gcc", "board-gcc-12", "clang", "board-clang-17.0"])
def test_a_profile_that_names_a_compiler_for_c(name, tools):
    tools(name, answer=f"{FOREIGN.architecture}-linux")
    named = replace(FOREIGN, toolchain=f"{name} -O2")
    assert find_toolchain(named).origin == "profile"
    with pytest.raises(MissingExtraError, match=r"names is for C, and C\+\+ is needed; got .*key toolchain"):
        find_portable_toolchain(named)


def test_this_machine_with_zig_alone(tools, monkeypatch):
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: object())
    assert native_toolchain().origin == find_toolchain(targets.get("host")).origin == "zig"


def test_a_named_toolchain_that_is_not_there(tools):
    with pytest.raises(
        MissingExtraError, match=r"that the profile raspberrypi-4 names is not installed; got 'g\+\+-99'"
    ):
        find_toolchain(replace(targets.get("raspberrypi-4"), toolchain="g++-99"))


def test_looking_at_a_named_toolchain_runs_nothing(tools, tmp_path):
    """One that lies in a file that somebody was given: only what is to be compiled may run it."""
    command = tools("board-g++", answer=f"x86_64'; touch '{tmp_path}/was-run")
    target = replace(targets.get("raspberrypi-4"), toolchain="board-g++ -O2")
    located = locate_toolchain(target)
    assert (located.command, located.origin) == ((command, "-O2"), "profile")
    assert not (tmp_path / "was-run").exists()


def test_a_named_toolchain_for_another_machine(tools):
    tools("g++", answer="x86_64-linux-gnu")
    with pytest.raises(TargetError, match=r"another machine; got 'g\+\+', which compiles for x86_64"):
        find_toolchain(replace(targets.get("raspberrypi-4"), toolchain="g++"))


def test_an_architecture_that_nobody_knows():
    with pytest.raises(TargetError, match="unknown architecture; got 'nova64'; valid: x86_64"):
        find_toolchain(replace(FOREIGN, architecture="nova64"))


def test_what_was_made_is_looked_at(tmp_path):
    source = tmp_path / "a.c"
    source.write_text("int a(void) { return 1; }\n")
    out = tmp_path / "a.so"
    liar = replace(native_toolchain(), architecture=FOREIGN.architecture)
    with pytest.raises(TargetError, match=f"another machine than the target's: a.so; got {HERE}"):
        liar.link(out, [source])
    native_toolchain().link(out, [source])
    check_machine(out, HERE)
    with pytest.raises(TargetError, match="not an ELF file"):
        check_machine(source, HERE)


def test_a_failing_compiler_is_told(tmp_path):
    with pytest.raises(ToolchainError, match=r"failed; got .*nothing\.o"):
        native_toolchain().link(tmp_path / "a.so", [tmp_path / "nothing.o"])


@pytest.mark.needs_cross
@pytest.mark.parametrize("name", ["raspberrypi-4", "armv7-neon"])
def test_cross_compilers_compile(name, tmp_path):
    target = targets.get(name)
    need(f"{architectures.get(target.architecture).gnu_triple}-g++")
    source = tmp_path / "a.cc"
    source.write_text("#include <string>\nint main() { return (int)std::string().size(); }\n")
    find_toolchain(target).compile([source], tmp_path / "a", ["-O2", "-std=c++17"])
    check_machine(tmp_path / "a", target.architecture)


def test_compile_without_a_cross_compiler_fails_before_the_work(tmp_path):
    """In a process whose path has no compiler; the model is not even read."""
    model = tmp_path / "m.onnx"
    model.write_bytes(b"never read")
    command = (
        "import sys; from importlib import util; real = util.find_spec\n"
        "util.find_spec = lambda name, *more: None if name == 'ziglang' else real(name, *more)\n"
        "from aqd_deploy.cli.main import invoke; sys.exit(invoke(sys.argv[1:]))"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            command,
            "compile",
            str(model),
            "--target",
            ABROAD,
            "-o",
            str(tmp_path / "m.so"),
        ],
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and done.stdout == ""
    assert "error: no C++ compiler for" in done.stderr and "apt-get install" in done.stderr
    assert "Traceback" not in done.stderr and not list(tmp_path.glob("*.so"))


@pytest.mark.parametrize("origin", ["CXX", "CC", "profile", "native"])
def test_a_compiler_that_makes_nothing(tmp_path, origin):
    """The advice leads to another one: whoever names a compiler gets that one, whatever is installed."""
    silent = toolchain.Toolchain(("true",), origin, HERE)
    with pytest.raises(ToolchainError, match=r"made no file x\.so, and reported no error"):
        silent.link(tmp_path / "x.so", [])
    with pytest.raises(ToolchainError) as caught:
        toolchain.Toolchain(("false",), origin, HERE).compile([], tmp_path / "x")
    told = caught.value.next_command
    expected = {
        "CXX": "without CXX in the environment",
        "CC": "without CC in the environment",
        "profile": "another command under the key toolchain",
    }
    assert expected[origin] in told if origin in expected else told is None


def test_a_compiler_is_asked_for_its_words_in_english(tmp_path, monkeypatch):
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    script = tmp_path / "cc"
    script.write_text("#!/bin/sh\necho $LC_ALL >&2\nexit 1\n")
    script.chmod(0o755)
    with pytest.raises(ToolchainError, match="got C; "):
        toolchain.Toolchain((str(script),), "CC", HERE).link(tmp_path / "x.so", [])
