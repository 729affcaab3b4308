"""Everything that tells architectures apart is in their entries: nobody else names one, everybody refuses one
without an entry, and a new entry is all that the others need.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path
from types import SimpleNamespace

import pytest
from needing import ROOT

from aqd_deploy import targets
from aqd_deploy.bundle.runner import build_runner
from aqd_deploy.bundle.runtime_libraries import kept_folder, runtime_libraries
from aqd_deploy.compiler.toolchain import (
    check_machine,
    find_portable_toolchain,
    find_toolchain,
    install_commands,
    locate_toolchain,
)
from aqd_deploy.devices import qemu, rpc, ssh
from aqd_deploy.devices.kinds import KINDS
from aqd_deploy.errors import BundleError, MissingExtraError, ProgramError, TargetError
from aqd_deploy.kernels.contract.caches import Core
from aqd_deploy.runtime import backend
from aqd_deploy.targets import architectures
from aqd_deploy.targets.architectures import ARCHITECTURES, Architecture, Emulation, Sources, Wheels
from aqd_deploy.targets.cpu import Cpu
from aqd_deploy.targets.llvm_features import cpuinfo_name

FOLDERS = ("aqd_deploy", "passes", "targets")
ENTRIES = Path("targets/architectures.py")
NEW = Architecture(
    name="nova64",
    title="Nova, 64 bits",
    bits=64,
    elf_machine=999,
    spelling="nova64(be)?",
    machines=("nova64",),
    gnu_triples=("nova64-linux-gnu",),
    compiler_package="g++-nova64-linux-gnu",
    llvm_triples=("nova64",),
    default_cpu="nova-1",
    emulation=Emulation("nova64", "libstdc++6-nova64-cross", (("", "nova"),)),
    cpuinfo_names={"v": "vector"},
)
TARGET = replace(targets.get("aarch64"), architecture="nova64", triple="nova64-linux-gnu", features=())
STRING = "llvm -mtriple=nova64-linux-gnu -mattr=+v"


@pytest.fixture
def entry(monkeypatch):
    """An entry of an architecture that the product does not have."""
    monkeypatch.setattr(architectures, "ARCHITECTURES", (*ARCHITECTURES, NEW))


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """No compiler and no emulator is installed."""
    monkeypatch.setenv("PATH", str(tmp_path))
    for variable in ("CXX", "CC", "CONDA_PREFIX", "QEMU_LD_PREFIX"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("aqd_deploy.compiler.toolchain._has_zig", lambda: False)


# What the entries say of themselves.


def test_entries_are_told_apart():
    for field in ("name", "title", "elf_machine", "compiler_package"):
        values = [getattr(each, field) for each in ARCHITECTURES]
        assert len(set(values)) == len(values), field
    triples = [triple for each in ARCHITECTURES for triple in each.gnu_triples]
    assert len(set(triples)) == len(triples)


@pytest.mark.parametrize("shipped", ARCHITECTURES, ids=architectures.names())
def test_an_entry_agrees_with_itself(shipped):
    words = [shipped.name, *shipped.llvm_triples, *(triple.split("-")[0] for triple in shipped.gnu_triples)]
    assert {architectures.architecture_of(word) for word in words} == {shipped.name}
    assert architectures.of_process(shipped.machines[0], shipped.bits) == shipped.name
    if isinstance(shipped.runtime, Wheels):
        assert [*shipped.runtime.sha256] == ["apache-tvm-ffi", "apache-tvm"]
        assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in shipped.runtime.sha256.values())
    if shipped.emulation is not None:
        assert shipped.emulation.models[-1][0] == "", "no model for a CPU without features"


def test_a_process_of_32_bits_under_a_64_bit_kernel():
    assert architectures.of_process("aarch64", 32) == "armv7"
    assert architectures.of_process("armv8l", 32) == "armv7"
    assert architectures.of_process("x86_64", 32) == "x86_64"
    assert architectures.of_process("nova64", 64) == "nova64"


def elf(machine: int, order: str = "little") -> bytes:
    return (
        b"\x7fELF\x02" + (b"\x01" if order == "little" else b"\x02") + bytes(12) + machine.to_bytes(2, order)
    )


def test_the_architecture_of_an_elf_file():
    assert [architectures.of_elf(elf(each.elf_machine)) for each in ARCHITECTURES] == [*architectures.names()]
    assert architectures.of_elf(elf(999)) == "ELF machine 999"
    assert architectures.of_elf(elf(40, "big")) == "big-endian ELF machine 40"
    for data in (b"", b"#!/bin/sh\n", elf(62)[:19]):
        assert architectures.of_elf(data) == architectures.NOT_ELF


def test_the_host_is_of_the_groups_in_this_order():
    """From the most to the least capable: a CPU that has the features of several gets the first."""
    order = ["cascadelake", "x86-64-v4", "alderlake", "x86-64-v3", "x86-64-v2"]
    for better, worse in itertools.combinations(order, 2):
        features = {*targets.get(better).features, *targets.get(worse).features}
        assert targets.detect_host(Cpu("x86_64", "both", frozenset(features), 1)).profile == better
    zen = frozenset(targets.get("zen4").features)
    assert targets.detect_host(Cpu("x86_64", "a core with all of it", zen, 1)).profile == "cascadelake"


# What nobody else says.


def texts(tree: ast.Module) -> Iterator[ast.Constant]:
    """Every text of a module that is not a docstring."""
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    bodies = [node.body for node in ast.walk(tree) if isinstance(node, owners) and node.body]
    docstrings = {id(body[0].value) for body in bodies if isinstance(body[0], ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node


def test_only_the_entries_name_architectures():
    words = {word for each in ARCHITECTURES for word in (each.name, *each.machines, *each.llvm_triples)}
    # Not the names of LLVM's intrinsics, which belong to instruction sets.
    named = re.compile(rf"(?<![\w.])({'|'.join(sorted(words, key=len, reverse=True))})(?!\w)")
    found = [
        f"{path.relative_to(ROOT)}:{text.lineno}: {text.value!r}"
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path.relative_to(ROOT) != ENTRIES
        for text in texts(ast.parse(path.read_text(encoding="utf-8")))
        if named.search(text.value)
    ]
    assert found == []


def test_the_runner_has_a_section_for_each():
    source = resources.files("aqd_deploy.bundle") / "native" / "cpu.cc"
    told = re.findall(r'kArchitecture\[\] = "(\w+)"', source.read_text(encoding="utf-8"))
    assert sorted(told) == sorted(architectures.names())


def test_the_documentation_names_each():
    text = (ROOT / "docs" / "targets.md").read_text(encoding="utf-8")
    assert [name for name in architectures.names() if f"`{name}`" not in text] == []


# An architecture without an entry.


def bundle_for(architecture: str) -> SimpleNamespace:
    return SimpleNamespace(target={"name": "board", "architecture": architecture, "cpu": "x", "features": []})


def board(triple: str) -> SimpleNamespace:
    return SimpleNamespace(get_function=lambda name: lambda: triple)


def described(architecture: str) -> dict:
    return {"tvm_version": backend.tvm_version(), "target": {"name": "board", "architecture": architecture}}


ASKED = {
    "a feature": lambda: cpuinfo_name("v", "nova64"),
    "a toolchain": lambda: find_toolchain(TARGET),
    "where a toolchain is": lambda: locate_toolchain(TARGET),
    "a toolchain of a profile": lambda: find_toolchain(replace(TARGET, toolchain="cc")),
    "a portable toolchain": lambda: find_portable_toolchain(TARGET),
    "what installs a compiler": lambda: install_commands("nova64"),
    "the runner": lambda: build_runner(TARGET),
    "TVM's runtime": lambda: runtime_libraries(TARGET),
    "where TVM's runtime is kept": lambda: kept_folder(TARGET),
    "an emulator": lambda: qemu.emulator("nova64"),
    "its libraries": lambda: qemu.library_folder("nova64"),
    "what devices need": lambda: [kind.needs(TARGET) for kind in KINDS],
    "a board by SSH": lambda: ssh._check_architecture("ssh:board", bundle_for("nova64"), "nova64"),
    "a board of a farm": lambda: rpc._check("rpc:h:1/k", board("nova64-linux"), described("nova64")),
    "the caches of a core": lambda: Core.of(TARGET),
}


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
def test_an_unknown_architecture_is_refused(ask, monkeypatch):
    monkeypatch.delenv("QEMU_LD_PREFIX", raising=False)
    with pytest.raises(
        TargetError, match=rf"unknown architecture; got 'nova64'; valid: {', '.join(architectures.names())};"
    ):
        ask()


@pytest.mark.parametrize(("triple", "name"), [("nova64-linux-gnu", "nova64"), ("", "")])
def test_an_unknown_architecture_of_a_target_string(triple, name):
    told = rf"unknown architecture of the triple '{triple}'; got '{name}'; valid: x86_64, "
    with pytest.raises(TargetError, match=told):
        targets.get(f"llvm -mtriple={triple}")


def test_an_unknown_architecture_of_a_profile(tmp_path, monkeypatch):
    monkeypatch.setenv("AQD_DEPLOY_TARGETS", str(tmp_path))
    (tmp_path / "sbc.toml").write_text('extends = "aarch64"\narchitecture = "nova64"\ndescription = "x"\n')
    with pytest.raises(TargetError, match=r'wrong value of .architecture.; got .nova64.; valid: "x86_64" or'):
        targets.get("sbc")


# An architecture with a new entry.


def test_a_new_entry_is_known(entry):
    target = targets.get(STRING)
    assert (target.architecture, target.cpu, target.features) == ("nova64", "nova-1", ("vector",))
    assert Core.of(target) == Core()
    assert architectures.of_elf(elf(999)) == "nova64"
    ssh._check_architecture("ssh:board", bundle_for("nova64"), "nova64")
    rpc._check("rpc:h:1/k", board("nova64-unknown-linux-gnu"), described("nova64"))
    for here in ("aarch64", "x86_64"):
        with pytest.raises(ProgramError, match="another CPU"):
            ssh._check_architecture("ssh:board", bundle_for("nova64"), here)
        with pytest.raises(ProgramError, match="another CPU"):
            rpc._check("rpc:h:1/k", board(f"{here}-linux"), described("nova64"))


def test_what_a_new_entry_lacks_is_told(entry, bare, tmp_path):
    with pytest.raises(MissingExtraError, match=r"apt-get install g\+\+-nova64-linux-gnu"):
        find_toolchain(TARGET)
    with pytest.raises(BundleError, match="no runtime libraries for nova64"):
        runtime_libraries(TARGET)
    assert kept_folder(TARGET) is None
    needed = {what: look for kind in KINDS for what, look in kind.needs(TARGET).items()}
    assert [*needed] == ["emulator", "its libraries", "OpenSSH client"]
    with pytest.raises(MissingExtraError, match="needs qemu-nova64-static or qemu-nova64"):
        needed["emulator"]()
    with pytest.raises(MissingExtraError, match=r"apt-get install libstdc\+\+6-nova64-cross"):
        needed["its libraries"]()


def test_a_compiler_of_a_new_entry(entry, bare, tmp_path):
    compiler = tmp_path / "nova64-linux-gnu-g++"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    assert find_toolchain(TARGET).command == (str(compiler),)
    made = tmp_path / "a.so"
    made.write_bytes(elf(999))
    check_machine(made, "nova64")


def test_a_new_entry_without_emulation(monkeypatch):
    monkeypatch.setattr(architectures, "ARCHITECTURES", (*ARCHITECTURES, replace(NEW, emulation=None)))
    with pytest.raises(ProgramError, match="not emulated; got a program for nova64; valid: aarch64"):
        qemu.emulator("nova64")
    assert [*qemu.needs("nova64")] == []


def test_where_the_runtime_of_a_new_entry_is_kept(monkeypatch):
    wheels = Wheels("manylinux_2_39_nova64", {"apache-tvm-ffi": "a" * 64, "apache-tvm": "b" * 64})
    monkeypatch.setattr(architectures, "ARCHITECTURES", (*ARCHITECTURES, replace(NEW, runtime=wheels)))
    assert kept_folder(TARGET).name == f"runtime-nova64-{'a' * 12}-{'b' * 12}"
    compiled = replace(NEW, runtime=Sources(("-march=nova1",)))
    monkeypatch.setattr(architectures, "ARCHITECTURES", (*ARCHITECTURES, compiled))
    monkeypatch.setattr(
        "aqd_deploy.bundle.runtime_libraries.locate_toolchain",
        lambda target, *, cplusplus: SimpleNamespace(
            command=("g++",), origin="cross", architecture=target.architecture
        ),
    )
    assert re.fullmatch("runtime-nova64-[0-9a-f]{24}", kept_folder(TARGET).name)
