"""A bundle for this machine: what is in it, and that its runner computes what everything else computes."""

import hashlib
import json
import re
import subprocess
import tempfile
import time
import tomllib
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from bundle_models import assert_equal, case
from needs import need

from aqd_deploy import targets
from aqd_deploy.bundle import create_bundle, read_bundle
from aqd_deploy.errors import BundleError, ProgramError
from aqd_deploy.runtime import Program
from aqd_deploy.targets.llvm_features import LLVM_TO_CPUINFO

FILES = {
    "program.so", "aqd-run", "lib/libtvm_ffi.so", "lib/libtvm_runtime.so", "README.txt", "manifest.json",
    "manifest.sha256",
}  # fmt: skip
BUDGET = 8_000_000


def rewrite_manifest(folder, change):
    """Change the manifest and record its new hash, as a bundle made elsewhere would have it."""
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    data = json.dumps(manifest).encode()
    (folder / "manifest.json").write_bytes(data)
    (folder / "manifest.sha256").write_text(f"{hashlib.sha256(data).hexdigest()}  manifest.json\n")


@pytest.mark.parametrize("threads", [1, 2])
def test_integers_equal_the_program_and_the_reference(shared_bundle, program, outputs_of, threads):
    for seed in range(3):
        inputs, expected = case(seed)
        got = outputs_of(shared_bundle.path, inputs, "--threads", threads)
        assert_equal(got, expected)
        assert_equal(got, Program.load(program, threads=threads).run(inputs))


def test_raw_bytes_and_zeros_are_inputs(shared_bundle, run_bundle, program, tmp_path):
    inputs, expected = case()
    (tmp_path / "x.raw").write_bytes(inputs["image"].tobytes())
    for options, wanted in (
        (["--input", f"image={tmp_path / 'x.raw'}"], expected),
        ([], Program.load(program).run({"image": np.zeros_like(inputs["image"])})),
    ):
        done = run_bundle(shared_bundle.path, *options, "--output", tmp_path / "o")
        names = [each["name"] for each in json.loads(done.stdout)["outputs"]]
        assert_equal({name: np.load(tmp_path / "o" / f"{i}.npy") for i, name in enumerate(names)}, wanted)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_versions_of_npy(shared_bundle, run_bundle, tmp_path, version):
    inputs, expected = case()
    with (tmp_path / "x.npy").open("wb") as file:
        np.lib.format.write_array(file, inputs["image"], version=version)
    done = run_bundle(shared_bundle.path, f"--input=image={tmp_path / 'x.npy'}", f"--output={tmp_path / 'o'}")
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "o" / "0.npy"), next(iter(expected.values())))


def test_the_document(shared_bundle, run_bundle):
    done = run_bundle(shared_bundle.path, "--repeat", 4, "--warmup", 1, "--threads", 1)
    document = json.loads(done.stdout)
    assert done.stderr == ""
    assert document["threads"] == 1
    assert len(document["seconds"]) == 4
    assert all(0 < second < 10 for second in document["seconds"])
    assert 0 < document["verify_seconds"] < document["load_seconds"]
    described = [{key: each[key] for key in ("name", "shape", "dtype")} for each in document["outputs"]]
    assert described == shared_bundle.manifest["outputs"]
    assert {each["file"] for each in document["outputs"]} == {None}


def test_verify_tells_times_and_files_only(shared_bundle, run_bundle):
    document = json.loads(run_bundle(shared_bundle.path, "--verify").stdout)
    assert set(document) == {"target", "files", "verify_seconds"}
    assert document["target"] == "x86-64-v2"
    assert document["files"] == len(shared_bundle.manifest["files"])
    assert 0 < document["verify_seconds"] < 10


def test_the_needs_are_those_of_the_files(shared_bundle):
    """What `objdump` finds, and what the README says."""
    need("objdump")
    highest = {}
    for file in ("program.so", "aqd-run", *shared_bundle.manifest["libraries"]):
        command = ["objdump", "-T", shared_bundle.path / file]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for name, version in re.findall(r"\((GLIBC|GLIBCXX)_([\d.]+)\)", text):
            numbers = tuple(map(int, version.split(".")))
            highest[name] = max(highest.get(name, numbers), numbers)
    found = {name: ".".join(map(str, numbers)) for name, numbers in highest.items()}
    assert shared_bundle.manifest["needs"] == found
    readme = (shared_bundle.path / "README.txt").read_text()
    assert f"glibc {found['GLIBC']} or newer, libstdc++ with GLIBCXX_{found['GLIBCXX']}" in readme


def test_it_runs_from_anywhere_without_python(shared_bundle, bundle_copy, tmp_path):
    link = tmp_path / "runner"
    link.symlink_to(bundle_copy / "aqd-run")
    done = subprocess.run([link, "--verify"], cwd="/", env={}, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["files"] == len(shared_bundle.manifest["files"])


def test_two_bundles_of_one_program_are_equal(shared_bundle, program, tmp_path, monkeypatch):
    """With a cache and temporary files of their own, so that everything is made twice."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    again = create_bundle(program, tmp_path / "another")
    assert again.files.keys() == shared_bundle.files.keys()
    for name in again.files:
        assert (again.path / name).read_bytes() == (shared_bundle.path / name).read_bytes(), name


def test_files_hashes_and_size(shared_bundle):
    on_disk = {path.relative_to(shared_bundle.path).as_posix() for path in shared_bundle.path.rglob("*.*")}
    assert on_disk | {"aqd-run"} == FILES
    assert set(shared_bundle.files) == FILES
    assert {entry["path"] for entry in shared_bundle.manifest["files"]} == FILES - {
        "manifest.json",
        "manifest.sha256",
    }
    for entry in shared_bundle.manifest["files"]:
        data = (shared_bundle.path / entry["path"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (entry["bytes"], entry["sha256"])
    assert shared_bundle.total_bytes == sum((shared_bundle.path / name).stat().st_size for name in FILES)
    assert shared_bundle.bytes_beside_weights <= BUDGET
    subprocess.run(["sha256sum", "--check", "--quiet", "manifest.sha256"], cwd=shared_bundle.path, check=True)
    assert len((shared_bundle.path / "README.txt").read_text().splitlines()) == 10


def test_start_time_is_told(shared_bundle, run_bundle, capsys):
    starts = []
    for _ in range(5):
        started = time.perf_counter()
        document = json.loads(run_bundle(shared_bundle.path).stdout)
        starts.append(time.perf_counter() - started - sum(document["seconds"]))
        assert document["load_seconds"] < starts[-1]
    with capsys.disabled():
        print(f" [aqd-run starts in {1000 * min(starts):.0f} ms]", end="")


def test_a_bundle_replaces_a_bundle_and_nothing_else(program, tmp_path):
    first = create_bundle(program, tmp_path / "b")
    (tmp_path / "b" / "program.so").write_bytes(b"old")
    assert create_bundle(program, tmp_path / "b").manifest == first.manifest
    assert read_bundle(tmp_path / "b").manifest == first.manifest
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(BundleError, match="something else in it"):
        create_bundle(program, tmp_path / "mine")
    with pytest.raises(BundleError, match="no folder"):
        create_bundle(program, tmp_path / "mine" / "notes.txt")
    with pytest.raises(BundleError, match="folder of the output cannot be made"):
        create_bundle(program, tmp_path / "mine" / "notes.txt" / "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "mine"]


def test_damaged_programs_are_not_packaged(program, tmp_path):
    data = bytearray(program.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "p.so").write_bytes(data)
    with pytest.raises(ProgramError, match="damaged"):
        create_bundle(tmp_path / "p.so", tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["p.so"]


def test_the_runner_knows_every_feature_that_programs_demand():
    source = resources.files("aqd_deploy.bundle") / "native" / "cpu.cc"
    known = set(re.findall(r'\{"(\w+)", ', source.read_text()))
    demanded = {feature for name in targets.names() for feature in targets.get(name).features}
    assert set(LLVM_TO_CPUINFO.values()) | demanded <= known


def test_every_native_source_ships():
    root = Path(__file__).resolve().parents[2]
    config = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    package = root / "aqd_deploy" / "bundle"
    shipped = {path for glob in config["package-data"]["aqd_deploy.bundle"] for path in package.glob(glob)}
    assert shipped == {path for path in (package / "native").rglob("*") if path.is_file()}


def test_a_full_disk_under_stdout(shared_bundle):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [shared_bundle.path / "aqd-run"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert (done.returncode, done.stderr) == (
        1,
        "error: cannot write to standard output: No space left on device\n",
    )


SWAP = """\
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

/* The runner calls it when all files are checked, before it loads the first. */
int setenv(const char* name, const char* value, int replace) {
  rename(getenv("SWAP_FROM"), getenv("SWAP_TO"));
  return ((int (*)(const char*, const char*, int))dlsym(RTLD_NEXT, "setenv"))(name, value, replace);
}
"""


@pytest.mark.parametrize("name", ["program.so", "lib/libtvm_ffi.so", "lib/libtvm_runtime.so"])
def test_what_was_checked_is_loaded(name, bundle_copy, outputs_of, tmp_path, monkeypatch):
    """A file that is replaced between its check and its use is not used."""
    need("cc")
    (tmp_path / "swap.c").write_text(SWAP)
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-o", tmp_path / "swap.so", tmp_path / "swap.c", "-ldl"], check=True
    )
    (tmp_path / "other").write_text("no library")
    monkeypatch.setenv("LD_PRELOAD", str(tmp_path / "swap.so"))
    monkeypatch.setenv("SWAP_FROM", str(tmp_path / "other"))
    monkeypatch.setenv("SWAP_TO", str(bundle_copy / name))
    inputs, expected = case()
    got = outputs_of(bundle_copy, inputs)
    assert (bundle_copy / name).read_text() == "no library"
    assert_equal(got, expected)
