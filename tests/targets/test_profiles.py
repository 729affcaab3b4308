"""Target profiles: what is shipped, host detection, target strings, unknown names."""

import itertools

import pytest

from aqd_deploy import targets
from aqd_deploy.errors import TargetError
from aqd_deploy.targets.architectures import architecture_of
from aqd_deploy.targets.cores import parse_core
from aqd_deploy.targets.cpu import Cpu, parse_cpuinfo

V3 = frozenset(targets.get("x86-64-v3").features)


def cpu(features: frozenset[str], architecture: str = "x86_64") -> Cpu:
    return Cpu(architecture, "test CPU", features, 2)


def test_each_profile_includes_the_one_before_it():
    chain = [
        set(targets.get(name).features) for name in ("x86-64-v2", "x86-64-v3", "x86-64-v4", "cascadelake")
    ]
    assert all(small < large for small, large in itertools.pairwise(chain))


@pytest.mark.parametrize(
    ("name", "kernels"),
    [
        ("x86-64-v2", "portable"),
        ("x86-64-v3", "avx2"),
        ("alderlake", "avxvnni"),
        ("x86-64-v4", "avx512"),
        ("cascadelake", "vnni"),
        ("sapphirerapids", "amx"),
        ("zen4", "vnni"),
    ],
)
def test_kernels_follow_from_the_features(name, kernels):
    assert targets.get(name).kernels == kernels


def test_host_is_the_most_capable_profile_that_fits():
    assert targets.detect_host(cpu(V3)).profile == "x86-64-v3"
    assert targets.detect_host(cpu(V3 - {"avx2"})).profile == "x86-64-v2"
    vnni = frozenset(targets.get("cascadelake").features) | {"amx_tile"}
    assert targets.detect_host(cpu(vnni)).profile == "cascadelake"
    assert targets.detect_host(cpu(V3 | {"avx_vnni", "sha_ni"})).profile == "alderlake"


def test_host_without_a_profile_is_refused():
    with pytest.raises(TargetError, match="no profile fits"):
        targets.detect_host(cpu(frozenset(), "nova64"))


def test_every_listed_name_is_found():
    assert [targets.get(name).name for name in targets.names()] == targets.names()


def test_unknown_name_lists_the_nearest():
    with pytest.raises(TargetError, match=r"unknown target; got 'cascadlake'; valid: nearest cascadelake"):
        targets.get("cascadlake")


def test_unlike_name_lists_all():
    with pytest.raises(TargetError, match=r"valid: host, aarch64, aarch64-dotprod, alderlake"):
        targets.get("qqq")


@pytest.mark.parametrize(
    "text",
    [
        '{"kind": "llvm", "mcpu": "x86-64-v3", "mattr": ["+avx512vnni"]}',
        "llvm -mcpu=x86-64-v3 -mattr=+avx512vnni",
    ],
)
def test_target_string_in_both_forms(text):
    target = targets.get(text)
    assert target.tvm() == {
        "kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64-v3", "mattr": ["+avx512vnni"],
    }  # fmt: skip
    assert set(target.features) == V3 | {"avx512_vnni"}


def test_target_string_of_a_foreign_device():
    target = targets.get("llvm -mtriple=armv7a-linux-gnueabihf -mfloat-abi=hard")
    assert (target.architecture, target.cpu, target.float_abi) == ("armv7", "generic", "hard")
    assert target.tvm()["mfloat-abi"] == "hard"


@pytest.mark.parametrize("text", ['{"kind": "cuda"}', '{"kind": "llvm", "mcp": "x"}', "{", "llvm mcpu"])
def test_bad_target_strings(text):
    with pytest.raises(TargetError):
        targets.get(text)


def test_missing_features_and_architecture():
    target = targets.get("x86-64-v3")
    assert target.missing_on(cpu(V3 - {"fma", "avx2"})) == ["avx2", "fma"]
    assert target.missing_on(cpu(V3)) == []
    assert target.missing_on(cpu(V3, "aarch64")) == ["architecture x86_64"]


def test_cpuinfo_of_x86_and_arm():
    x86 = "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2\n\nprocessor\t: 1\nflags\t\t: fpu\n"
    assert parse_cpuinfo(x86) == ("Some CPU", frozenset({"fpu", "avx2"}))
    assert parse_cpuinfo("Features\t: fp asimddp\n") == ("unknown", frozenset({"fp", "asimddp"}))


PI_4 = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU part\t: 0xd08

Hardware\t: BCM2835
Model\t\t: Raspberry Pi 4 Model B Rev 1.4
"""


def test_cpuinfo_of_a_board():
    assert parse_cpuinfo(PI_4) == (
        "Raspberry Pi 4 Model B Rev 1.4", frozenset(["fp", "asimd", "evtstrm", "crc32", "cpuid"]),
    )  # fmt: skip
    assert parse_core(PI_4) == "cortex-a72"


def test_the_core_of_a_board_with_two_kinds_is_the_big_one():
    little, big = PI_4.replace("0xd08", "0xd05"), PI_4.replace("0xd08", "0xd0b")
    assert parse_core(little + big) == parse_core(big + little) == "cortex-a76"
    assert parse_core(PI_4.replace("0x41", "0x61")) == ""


@pytest.mark.parametrize(
    ("machine", "architecture"),
    [
        ("x86_64", "x86_64"), ("AMD64", "x86_64"), ("aarch64", "aarch64"), ("arm64", "aarch64"),
        ("armv7l", "armv7"), ("armv8l", "armv7"), ("armv7a", "armv7"), ("arm", "armv7"),
        ("nova64", "nova64"),
    ],
)  # fmt: skip
def test_architecture_of_machine_and_triple(machine, architecture):
    assert architecture_of(machine) == architecture


@pytest.mark.parametrize(
    ("features", "core", "architecture", "profile"),
    [
        ("asimd", "cortex-a72", "aarch64", "raspberrypi-4"),
        ("asimd asimddp", "neoverse-n1", "aarch64", "graviton2"),
        ("asimd", "neoverse-n1", "aarch64", "aarch64"),
        ("asimd asimddp", "", "aarch64", "aarch64-dotprod"),
        ("neon vfpv3", "cortex-a72", "armv7", "armv7-neon"),
    ],
)
def test_host_on_arm(features, core, architecture, profile):
    host = targets.detect_host(Cpu(architecture, "board", frozenset(features.split()), 3, core))
    assert (host.name, host.profile, host.cores) == ("host", profile, 3)
    assert host.clock_ghz is None and host.bandwidth_gb_s is None and host.soc == ""


def test_aliases_and_case():
    assert targets.get("rpi5").name == targets.get("Pi5").name == "raspberrypi-5"
    aliases = [alias for name in targets.names() for alias in targets.get(name).aliases]
    assert len(set(aliases)) == len(aliases) and not set(aliases) & set(targets.names())


def test_nearest_names_include_aliases():
    with pytest.raises(TargetError, match=r"nearest .*orin-nano"):
        targets.get("orin-nan")


def test_every_published_number_has_its_source():
    assert targets.problems() == {}
    figures = ("cores", "clock_ghz", "l1d_kib", "l2_kib", "l3_kib", "bandwidth_gb_s", "int8_macs_per_cycle")
    for target in map(targets.get, targets.names()[1:]):
        told = {key for key in figures if getattr(target, key) is not None}
        assert told == set(target.sources), target.name


def test_hard_float_is_told_to_tvm():
    assert targets.get("armv7-neon").tvm()["mfloat-abi"] == "hard"
    assert "mfloat-abi" not in targets.get("raspberrypi-4").tvm()
