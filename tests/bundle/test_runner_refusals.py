"""What the runner refuses, each with its own sentence and before it loads a library of the bundle."""

import numpy as np
import pytest
from bundle_models import case
from test_native_bundle import rewrite_manifest

from aqd_deploy.bundle import read_bundle
from aqd_deploy.bundle.create import _describe
from aqd_deploy.compiler.toolchain import native_toolchain
from aqd_deploy.errors import BundleError

GUARDED = ("program.so", "lib/libtvm_ffi.so", "lib/libtvm_runtime.so", "README.txt", "aqd-run")


def flip(path, at: int) -> None:
    """Change one bit of the byte `at`."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", GUARDED)
@pytest.mark.parametrize("option", ["--verify", "--repeat=1"])
def test_a_changed_byte(bundle_copy, refused, name, option):
    # The runner has to start to say so: its last byte is no code.
    flip(bundle_copy / name, -1 if name == "aqd-run" else (bundle_copy / name).stat().st_size // 2)
    sentence = refused(bundle_copy, option)
    assert sentence.startswith(f"{bundle_copy / name} is damaged or of another bundle; got SHA-256 ")
    with pytest.raises(BundleError, match="damaged or of another bundle"):
        read_bundle(bundle_copy)


@pytest.mark.parametrize("name", ["manifest.json", "manifest.sha256"])
def test_a_changed_byte_in_the_manifest(bundle_copy, refused, name):
    flip(bundle_copy / name, 10)
    assert "manifest.json does not belong to manifest.sha256" in refused(bundle_copy)
    with pytest.raises(BundleError, match="is not a bundle"):
        read_bundle(bundle_copy)


def test_a_file_that_is_cut_off_or_missing(bundle_copy, refused):
    program = bundle_copy / "program.so"
    data = program.read_bytes()
    program.write_bytes(data[:-1])
    assert f"got {len(data) - 1} bytes; valid: {len(data)}" in refused(bundle_copy)
    program.unlink()
    assert "program.so: No such file or directory" in refused(bundle_copy)
    (bundle_copy / "manifest.json").unlink()
    assert "manifest.json: No such file or directory" in refused(bundle_copy)


@pytest.mark.parametrize("features", [["ssse3", "sve"], ["no_such_feature"]])
def test_a_feature_that_the_cpu_lacks(bundle_copy, refused, features):
    rewrite_manifest(bundle_copy, lambda manifest: manifest["target"].update(features=features))
    # Whatever is wrong with the libraries is not even looked at.
    flip(bundle_copy / "lib" / "libtvm_ffi.so", 100)
    assert refused(bundle_copy).startswith(
        f"this CPU lacks {features[-1]}, which the program needs; got a program for x86-64-v2; try: "
    )


def test_another_architecture(bundle_copy, refused):
    rewrite_manifest(bundle_copy, lambda manifest: manifest["target"].update(architecture="riscv64"))
    assert "another CPU than this runner's; got a program for riscv64; valid: x86_64" in refused(bundle_copy)


def test_manifests_that_are_no_manifests(bundle_copy, refused):
    rewrite_manifest(bundle_copy, lambda manifest: manifest.update(format=99))
    assert "got format 99; valid: 1" in refused(bundle_copy)
    rewrite_manifest(bundle_copy, lambda manifest: manifest.update(format=1, inputs=7))
    assert "manifest.json inputs is not a list" in refused(bundle_copy)
    rewrite_manifest(bundle_copy, lambda manifest: manifest.pop("libraries"))
    assert "manifest.json has no libraries" in refused(bundle_copy)


def replace_file(folder, name: str, data: bytes) -> None:
    """Write `data` to a file of the bundle and record its hashes."""
    (folder / name).write_bytes(data)
    described = _describe(folder / name, name)

    def change(manifest):
        manifest["files"] = [described if each["path"] == name else each for each in manifest["files"]]

    rewrite_manifest(folder, change)


def test_a_library_that_the_system_cannot_load(bundle_copy, refused, run_bundle):
    """Such as one for a newer C library: told when it is loaded, after all checks."""
    replace_file(bundle_copy, "lib/libtvm_runtime.so", b"no library")
    assert run_bundle(bundle_copy, "--verify").returncode == 0
    sentence = refused(bundle_copy)
    assert sentence.startswith("this system cannot load lib/libtvm_runtime.so: ")
    assert sentence.endswith("; see README.txt for what it needs")


def test_a_library_that_is_no_program(bundle_copy, refused, tmp_path):
    (tmp_path / "a.c").write_text("int a = 1;\n")
    native_toolchain().link(tmp_path / "a.so", [tmp_path / "a.c"])
    replace_file(bundle_copy, "program.so", (tmp_path / "a.so").read_bytes())
    assert "vm_load_executable" in refused(bundle_copy)


def test_outputs_that_are_not_what_the_manifest_says(bundle_copy, refused):
    rewrite_manifest(bundle_copy, lambda manifest: manifest["outputs"][1].update(shape=[1, 2, 3, 4]))
    name = read_bundle(bundle_copy).manifest["outputs"][1]["name"]
    sentence = f"output {name} is not what the manifest says; valid: int32 [1, 2, 3, 4]"
    assert refused(bundle_copy) == sentence
    rewrite_manifest(bundle_copy, lambda manifest: manifest["outputs"].pop())
    count = len(read_bundle(bundle_copy).manifest["outputs"])
    assert refused(bundle_copy) == f"the program returns {count + 1} outputs; valid: {count}"


def test_inputs_that_do_not_fit(shared_bundle, refused, tmp_path):
    folder, image = shared_bundle.path, case()[0]["image"]
    path = tmp_path / "x.npy"
    given = ["--input", f"image={path}"]
    assert "the program has no input picture; valid: image" in refused(folder, "--input", f"picture={path}")
    assert "--input takes NAME=FILE; got 'x.npy'; valid names: image" in refused(folder, "--input", "x.npy")
    assert f"cannot read {path} for input image: No such file" in refused(folder, *given)
    for array, told in (
        (image.astype(np.float32), "float32 [1, 3, 17, 20]"),
        (image.astype(">i2"), "dtype '>i2' [1, 3, 17, 20]"),
        (image[0], "uint8 [3, 17, 20]"),
        (np.uint8(3), "uint8 []"),
    ):
        np.save(path, array)
        assert f"got {told}; valid: uint8 [1, 3, 17, 20]" in refused(folder, *given)
    np.save(path, np.asfortranarray(image))
    assert "is in Fortran order" in refused(folder, *given)
    np.save(path, image)
    path.write_bytes(path.read_bytes()[:-1])
    assert f"got {image.size - 1} bytes of data; valid: {image.size} bytes" in refused(folder, *given)
    path.write_bytes(path.read_bytes()[:40])
    assert "is a .npy file that is cut off" in refused(folder, *given)
    path.write_bytes(image.tobytes() + b"x")
    assert f"got more than {image.size} bytes of data" in refused(folder, *given)
    path.write_bytes(image.tobytes())
    assert "input image is given twice" in refused(folder, *given, *given)
    assert "cannot read" in refused(folder, "--input", f"image={tmp_path}")


def test_options_that_are_wrong(shared_bundle, refused):
    folder = shared_bundle.path
    assert "unknown option '--fast'; valid: --input" in refused(folder, "--fast")
    assert "unknown option 'x.npy'" in refused(folder, "x.npy")
    assert "option --repeat needs a value" in refused(folder, "--repeat")
    assert "--repeat takes a whole number; got '0'; valid: 1 to" in refused(folder, "--repeat", 0)
    assert "--warmup takes a whole number; got '-1'" in refused(folder, "--warmup=-1")
    assert "--threads takes a whole number; got 'many'" in refused(folder, "--threads", "many")


def test_outputs_that_cannot_be_written(shared_bundle, refused, tmp_path):
    (tmp_path / "file").write_text("")
    assert "is not a folder" in refused(shared_bundle.path, "--output", tmp_path / "file")
    assert "cannot make the folder" in refused(shared_bundle.path, "--output", tmp_path / "a" / "b")
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "0.npy").mkdir()
    assert "cannot write" in refused(shared_bundle.path, "--output", tmp_path / "o")
    assert [path.name for path in (tmp_path / "o").iterdir()] == ["0.npy"]
