"""Bundles for ARM boards, run under user-mode emulation: the same integers, the same refusals."""

import json
import shutil
import tempfile

import pytest
from bundle_models import assert_equal, case, tiny_program
from needs import need, need_network
from test_native_bundle import BUDGET, rewrite_manifest

from aqd_deploy import targets
from aqd_deploy.bundle import create_bundle
from aqd_deploy.bundle.elf import required_versions
from aqd_deploy.targets import architectures

QEMU = {"aarch64": "qemu-aarch64-static", "armv7": "qemu-arm-static"}
# Profile, and the CPU that qemu shall be.
OLDEST = {"GLIBC": (2, 28), "GLIBCXX": (3, 4, 25)}
BOARDS = (("raspberrypi-4", "cortex-a72"), ("raspberrypi-5", "cortex-a76"), ("armv7-neon", "cortex-a15"))


def within(needs: dict[str, str], limit: dict[str, tuple[int, ...]]) -> bool:
    """Whether none of the versions `needs` is above its limit."""
    return all(tuple(map(int, version.split("."))) <= limit[name] for name, version in needs.items())


pytestmark = [pytest.mark.needs_cross, pytest.mark.needs_qemu]


@pytest.fixture(scope="module")
def bundle_for(tmp_path_factory):
    """The bundle of the small program for a profile, made once."""
    made = {}

    def make(name):
        architecture = targets.get(name).architecture
        need(f"{architectures.get(architecture).gnu_triple}-g++", QEMU[architecture])
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            with need_network("cannot download"):
                made[name] = create_bundle(tiny_program(name, folder / "p.so"), folder / "b")
        return made[name]

    return make


@pytest.mark.parametrize("name, cpu", BOARDS)
def test_integers_equal_the_reference(name, cpu, bundle_for, outputs_of):
    bundle = bundle_for(name)
    for threads in (1, 2):
        inputs, expected = case(threads)
        how = {"emulate": bundle.manifest["target"]["architecture"], "cpu": cpu}
        assert_equal(outputs_of(bundle.path, inputs, "--threads", threads, **how), expected)


@pytest.mark.parametrize("name, cpu", BOARDS)
def test_every_file_is_for_the_board(name, cpu, bundle_for):
    bundle = bundle_for(name)
    architecture = targets.get(name).architecture
    for file in ("program.so", "aqd-run", *bundle.manifest["libraries"]):
        assert architectures.of_elf((bundle.path / file).read_bytes()) == architecture, file
    assert bundle.bytes_beside_weights <= BUDGET


@pytest.mark.parametrize("name", ["raspberrypi-4", "raspberrypi-5"])
def test_nothing_but_the_runner_needs_a_new_system(name, bundle_for):
    """The program, and the published libraries for aarch64, are for glibc 2.28 and GCC 8's C++ library, as
    Debian 10 has them; which C library the runner needs is the compiler's choice.
    """
    bundle = bundle_for(name)
    files = [bundle.path / file for file in ("program.so", *bundle.manifest["libraries"])]
    assert within(required_versions(files), OLDEST)
    everything = required_versions([*files, bundle.path / "aqd-run"])
    assert everything == bundle.manifest["needs"]
    assert f"glibc {everything['GLIBC']} or newer" in (bundle.path / "README.txt").read_text()


@pytest.mark.needs_zig
def test_zig_makes_bundles_for_old_systems(tmp_path, monkeypatch, outputs_of):
    """Linked and packaged without any other compiler; every file of the bundle is for glibc 2.28."""
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name, **more: None if "g++" in name else which(name, **more))
    program = tiny_program("raspberrypi-4", tmp_path / "p.so")
    with need_network("cannot download"):
        bundle = create_bundle(program, tmp_path / "b")
    assert within(bundle.manifest["needs"], OLDEST)
    # Checks for undefined behaviour, which zig adds to what is not optimized, would need files and sockets.
    assert within(required_versions([bundle.path / "program.so"]), {"GLIBC": (2, 17)})
    inputs, expected = case()
    assert_equal(outputs_of(bundle.path, inputs, emulate="aarch64", cpu="cortex-a72"), expected)


def test_a_compiled_runtime_does_not_tell_where_its_sources_lay(bundle_for):
    """TVM's messages name source files; two installations make the same libraries."""
    bundle = bundle_for("armv7-neon")
    for library in bundle.manifest["libraries"]:
        data = (bundle.path / library).read_bytes()
        assert b"site-packages" not in data and tempfile.gettempdir().encode() not in data, library


def test_dot_products_that_a_cpu_lacks(bundle_for, refused, run_bundle):
    """A Raspberry Pi 4 refuses the program of a Raspberry Pi 5, in words."""
    bundle = bundle_for("raspberrypi-5")
    assert "asimddp" in bundle.manifest["target"]["features"]
    sentence = refused(bundle.path, emulate="aarch64", cpu="cortex-a72")
    assert sentence.startswith("this CPU lacks ")
    assert "asimddp" in sentence
    assert "got a program for raspberrypi-5" in sentence
    assert run_bundle(bundle.path, "--verify", emulate="aarch64", cpu="cortex-a76").returncode == 0


def test_neon_that_a_cpu_lacks(bundle_for, refused, tmp_path):
    bundle = bundle_for("armv7-neon")
    folder = shutil.copytree(bundle.path, tmp_path / "b")
    rewrite_manifest(folder, lambda manifest: manifest["target"].update(features=["neon", "asimddp"]))
    assert "this CPU lacks asimddp" in refused(folder, emulate="armv7", cpu="cortex-a15")


def test_the_runner_of_another_architecture(bundle_for, shared_bundle, refused, tmp_path):
    bundle = bundle_for("raspberrypi-4")
    folder = shutil.copytree(bundle.path, tmp_path / "b")
    shutil.copy2(shared_bundle.path / "aqd-run", folder / "aqd-run")
    assert "got a program for aarch64; valid: x86_64" in refused(folder)


def test_a_changed_byte(bundle_for, refused, run_bundle, tmp_path):
    bundle = bundle_for("raspberrypi-4")
    how = {"emulate": "aarch64", "cpu": "cortex-a72"}
    done = run_bundle(bundle.path, "--verify", **how)
    assert json.loads(done.stdout)["files"] == len(bundle.manifest["files"])
    folder = shutil.copytree(bundle.path, tmp_path / "b")
    data = bytearray((folder / "program.so").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "program.so").write_bytes(data)
    assert "program.so is damaged or of another bundle" in refused(folder, **how)
