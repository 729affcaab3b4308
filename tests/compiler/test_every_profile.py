"""Every profile, from a small network to the end: machine code for its CPU, and a linked program."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tvm
from needs import need
from small_models import tiny_network
from tvm.target import codegen

from aqd_deploy import targets
from aqd_deploy.compiler import build, compile_model
from aqd_deploy.compiler.lower import complete_target
from aqd_deploy.compiler.toolchain import Toolchain, check_machine
from aqd_deploy.errors import TargetError
from aqd_deploy.runtime.container import read_manifest
from aqd_deploy.targets import architectures
from aqd_deploy.targets.llvm_features import cpuinfo_name

# For cards there is `test_card_programs`.
NAMES = [name for name in targets.names()[1:] if not targets.get(name).card]
FOREIGN = [name for name in NAMES if targets.get(name).architecture != targets.read_cpu().architecture]


class ObjectsOnly(Toolchain):
    """In place of a linker: looks at the machine of every object, and keeps the first. The one source among
    what is to be linked, which needs a compiler, is left alone.
    """

    def link(self, output, objects, options=None, **_):
        compiled = [Path(each) for each in objects if Path(each).name != "program_data.c"]
        assert compiled
        for each in compiled:
            check_machine(each, self.architecture)
        shutil.copyfile(compiled[0], output)


@pytest.mark.parametrize("name", NAMES)
def test_every_profile_compiles_to_the_end(name, tmp_path, monkeypatch):
    """Where there is no cross compiler, and CI is not set, to the objects."""
    target = targets.get(name)
    cross = f"{architectures.get(target.architecture).gnu_triple}-g++"
    if name in FOREIGN and os.environ.get("CI"):
        need(cross)
    if name in FOREIGN and shutil.which(cross) is None:
        objects = ObjectsOnly(("none",), "test", target.architecture)
        monkeypatch.setattr(build, "find_toolchain", lambda target: objects)
    report = compile_model(tiny_network(), tmp_path / "m.so", target=name, tuned="none")
    check_machine(report.path, target.architecture)
    program = read_manifest(report.path)["program"]
    told = program["target"]
    assert (told["name"], told["triple"], told["kernels"]) == (name, target.triple, target.kernels)
    assert told["features"] == list(target.features)
    assert program["threads"] == build.default_threads(target)


@pytest.mark.parametrize("name", NAMES)
def test_llvm_may_emit_only_what_the_profile_demands(name):
    """Of the features that LLVM uses by itself, its CPU and attributes allow none that is not demanded."""
    target = targets.get(name)
    assert codegen.llvm_is_valid_cpu(target.cpu, target.triple)
    allowed = codegen.llvm_get_cpu_features(tvm.target.Target(target.tvm()))
    named = {cpuinfo_name(each, target.architecture) for each in allowed} - {None}
    assert named <= set(target.features)


def test_a_profile_of_a_cpu_that_llvm_does_not_know():
    mine = replace(targets.get("raspberrypi-4"), name="mine", cpu="cortex-a72x")
    with pytest.raises(TargetError, match=r"CPU of mine; got 'cortex-a72x'; valid: nearest cortex-a72,"):
        complete_target(mine)


def test_features_of_a_raw_target_are_those_of_its_cpu():
    raw = complete_target(targets.get("llvm -mtriple=aarch64-linux-gnu -mcpu=cortex-a76"))
    assert {"asimd", "asimddp"} <= set(raw.features) and raw.architecture == "aarch64"
    assert complete_target(targets.get("llvm -mtriple=armv7a-linux-gnueabihf -mcpu=cortex-a7")).features == (
        "neon",
    )
