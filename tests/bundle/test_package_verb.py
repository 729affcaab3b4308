"""`aqd-deploy package`: what it prints, and how it fails."""

import json
import shutil
import subprocess

import pytest

from aqd_deploy.bundle import read_bundle
from aqd_deploy.cli.main import invoke


def package(capsys, *arguments):
    """Exit code, stdout and the last line of stderr."""
    code = invoke(["package", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err.strip().splitlines()[-1]


def test_it_prints_files_and_sizes(program, tmp_path, capsys):
    code, out, _ = package(capsys, program, "-o", tmp_path / "b")
    assert code == 0
    bundle = read_bundle(tmp_path / "b")
    lines = {
        name: int(size.replace(",", "")) for size, name in (line.split(None, 1) for line in out.splitlines())
    }
    assert lines == {
        **bundle.files, "in all": bundle.total_bytes, "beside the weights": bundle.bytes_beside_weights,
    }  # fmt: skip


def test_json(program, tmp_path, capsys):
    code, out, _ = package(capsys, program, "-o", tmp_path / "b", "--json")
    assert code == 0
    document = json.loads(out)
    bundle = read_bundle(tmp_path / "b")
    assert document["folder"] == str(bundle.path)
    assert document["total_bytes"] == bundle.total_bytes
    assert document["files"] == bundle.manifest["files"]


@pytest.mark.parametrize(
    "name, options, told",
    [
        ("nothing.so", [], "there is no such program"),
        ("text.so", [], "is not a compiled program"),
        ("tiny.so", ["--runtime", "empty"], "a runtime library is missing"),
        (
            "tiny.so",
            ["--runtime", "foreign"],
            "is for another architecture; got something that is not an ELF file; valid: x86_64",
        ),
    ],
)
def test_bad_input(program, tmp_path, capsys, monkeypatch, name, options, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.so").write_text("hello")
    (tmp_path / "tiny.so").write_bytes(program.read_bytes())
    (tmp_path / "empty").mkdir()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "libtvm_ffi.so").write_text("!<arch>")
    before = sorted(tmp_path.rglob("*"))
    code, out, error = package(capsys, name, "-o", "b", *options)
    assert (code, out) == (1, "")
    assert error.startswith("error: ")
    assert told in error
    assert sorted(tmp_path.rglob("*")) == before


def test_a_disk_that_is_full_of_downloads(monkeypatch, tmp_path):
    """pip says it, and the folder for temporary files is named, not the network."""
    from aqd_deploy import targets
    from aqd_deploy.bundle import runtime_libraries as module
    from aqd_deploy.errors import StorageError

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    said = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n\n"
    done = subprocess.CompletedProcess([], 1, "", said)
    monkeypatch.setattr(module.processes, "run", lambda *_, **__: done)
    with pytest.raises(StorageError, match=r"cannot write temporary files; got .*TMPDIR=FOLDER"):
        module.runtime_libraries(targets.get("raspberrypi-5"))


def test_only_what_has_to_be_made_is_announced(program, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert invoke(["package", str(program), "-o", str(tmp_path / "b")]) == 0
    assert "compiling the runner, once: " in capsys.readouterr().err
    assert invoke(["package", str(program), "-o", str(tmp_path / "b")]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("packaging for ")


def test_inspect_tells_what_a_bundle_is(program, shared_bundle, tmp_path, capsys):
    assert invoke(["inspect", str(shared_bundle.path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["kind"], document["bytes"]) == ("bundle", shared_bundle.total_bytes)
    assert document["files"] == shared_bundle.files
    assert invoke(["inspect", str(program), "--json"]) == 0
    assert document["manifest"] == json.loads(capsys.readouterr().out)["manifest"]
    assert invoke(["inspect", str(shared_bundle.path)]) == 0
    out = capsys.readouterr().out
    assert "bundle" in out and "aqd-run" in out and len(out.splitlines()) <= 40
    # A folder that is none, and one that is damaged.
    assert invoke(["inspect", str(tmp_path)]) == 1
    assert "the folder is not a bundle" in capsys.readouterr().err
    shutil.copytree(shared_bundle.path, tmp_path / "b")
    (tmp_path / "b" / "README.txt").write_text("changed")
    assert invoke(["inspect", str(tmp_path / "b")]) == 1
    assert "README.txt is missing, damaged or of another bundle" in capsys.readouterr().err


def test_runtime_libraries_of_the_user(program, shared_bundle, tmp_path, capsys):
    code, _, _ = package(capsys, program, "-o", tmp_path / "b", "--runtime", shared_bundle.path / "lib")
    assert code == 0
    assert read_bundle(tmp_path / "b").manifest == shared_bundle.manifest


def test_no_network(monkeypatch, tmp_path):
    """Without the aarch64 wheels the sentence names the command that fetches them."""
    from aqd_deploy import targets
    from aqd_deploy.bundle.runtime_libraries import runtime_libraries
    from aqd_deploy.errors import BundleError

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    target = targets.get("raspberrypi-5")
    with pytest.raises(
        BundleError, match=r"cannot download .* try: pip download --no-deps .*apache-tvm=="
    ) as error:
        runtime_libraries(target)
    assert "PIP_FIND_LINKS=DIR aqd-deploy package" in error.value.sentence()
    assert not list((tmp_path / "cache" / "aqd-deploy").iterdir())


def test_wheels_that_are_not_the_published_ones(monkeypatch, tmp_path):
    from aqd_deploy import targets
    from aqd_deploy.bundle import runtime_libraries as module
    from aqd_deploy.errors import BundleError

    def download(command, **_):
        folder = command[command.index("-d") + 1]
        for package in ("apache_tvm_ffi-0.1.14.post1", "apache_tvm-0.27.0.post1"):
            with open(f"{folder}/{package}-py3-none-any.whl", "wb") as file:
                file.write(b"PK")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module.processes, "run", download)
    with pytest.raises(BundleError, match="is not the published wheel; got SHA-256"):
        module.runtime_libraries(targets.get("raspberrypi-5"))
