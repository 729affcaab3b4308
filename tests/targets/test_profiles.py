"""Target profiles: what is shipped, host detection, target strings, unknown names."""

import itertools

import pytest

from aqd_deploy import targets
from aqd_deploy.errors import TargetError
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
        ("llvm -mtriple=aarch64-linux-gnu -mcpu=cortex-a76", "portable"),
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
        targets.detect_host(cpu(frozenset(), "riscv64"))


def test_every_listed_name_is_found():
    assert [targets.get(name).name for name in targets.names()] == targets.names()


def test_unknown_name_lists_the_nearest():
    with pytest.raises(TargetError, match=r"unknown target; got 'cascadlake'; valid: nearest cascadelake"):
        targets.get("cascadlake")


def test_unlike_name_lists_all():
    with pytest.raises(TargetError, match=r"valid: host, alderlake, cascadelake, x86-64-v2"):
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
