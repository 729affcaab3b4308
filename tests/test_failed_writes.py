"""A write that fails is told with the place that it failed in: the output, the folder for temporary files or
the cache, and never by the name of an owned folder.
"""

import errno
import os
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from aqd_deploy import files
from aqd_deploy.bundle.cache import cached
from aqd_deploy.cli.main import invoke, sentence_of
from aqd_deploy.compiler.toolchain import native_toolchain
from aqd_deploy.errors import AqdError, BundleError, ProgramError, StorageError
from aqd_deploy.files import TemporaryFolder, check_output, failure, replacing, replacing_folder
from aqd_deploy.runtime.container import write_atomically


@pytest.fixture
def small_files():
    """No file may have more than 4 KB: what the system answers then has no name of a file."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, ignored)


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The system's folder for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(files.tempfile, "tempdir", None)
    return folder


def fill(path):
    path.write_bytes(b"x" * 10_000)


def test_an_output_is_named(tmp_path, small_files):
    output = tmp_path / "new" / "out.bin"
    with pytest.raises(OSError) as caught, replacing(output) as path:
        fill(path)
    assert sentence_of(caught.value).startswith(f"File too large: {output}; free some space")
    with pytest.raises(OSError) as caught, replacing_folder(output) as folder:
        fill(folder / "inside")
    assert caught.value.filename == str(output)
    assert list(tmp_path.iterdir()) == []


def test_temporary_files_are_not_taken_for_the_output(tmp_path, temporary, small_files):
    """As `compile` does: a temporary folder while the output is written."""

    def write(_):
        owner = TemporaryFolder()
        with owner as folder, owner.writing():
            fill(folder / "object.o")

    with pytest.raises(StorageError) as caught:
        write_atomically(tmp_path / "m.so", write)
    assert str(caught.value) == (
        f"cannot write temporary files; got {temporary}: File too large; try: free some space there and "
        "repeat the command or the same command with TMPDIR=FOLDER, another folder for temporary files"
    )
    assert list(tmp_path.iterdir()) == [temporary] and not list(temporary.iterdir())


def test_a_temporary_folder_that_cannot_be_made(temporary, monkeypatch):
    def full(owned, _):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(owned))

    monkeypatch.setattr(files, "_own", full)
    with pytest.raises(StorageError, match=f"cannot write temporary files; got {temporary}: No space left"):
        TemporaryFolder()


def test_a_file_system_without_folders_is_not_tried_for_ever(tmp_path, monkeypatch):
    """As /proc answers, also to root."""

    def none(path, *_, **__):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))

    monkeypatch.setattr(files.Path, "mkdir", none)
    with pytest.raises(FileNotFoundError) as caught, replacing(tmp_path / "a"):
        pass
    assert caught.value.filename == str(tmp_path / "a")


def test_no_temporary_folder_at_all(monkeypatch):
    monkeypatch.setenv("TMPDIR", "/dev/null")
    monkeypatch.setattr(files.tempfile, "tempdir", None)

    def none():
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(files.tempfile, "gettempdir", none)
    with pytest.raises(StorageError, match=r"No usable temporary directory.*try: .*TMPDIR=FOLDER"):
        TemporaryFolder()


def test_other_files_keep_their_names(tmp_path, temporary):
    with pytest.raises(FileNotFoundError) as caught, TemporaryFolder():
        (tmp_path / "input").read_bytes()
    assert caught.value.filename == str(tmp_path / "input")
    with pytest.raises(StorageError, match=f"got {temporary}: No such file"), TemporaryFolder() as folder:
        (folder / "input").read_bytes()
    with pytest.raises(ConnectionResetError) as caught, replacing(tmp_path / "a"):
        raise ConnectionResetError(errno.ECONNRESET, "reset")
    assert caught.value.filename is None


@pytest.mark.parametrize("below", ["", "deeper/"])
def test_a_cache_that_cannot_be_made(tmp_path, monkeypatch, below):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", f"{tmp_path}/file/{below}")
    with pytest.raises(BundleError) as caught:
        cached("runner-1", lambda folder: None)
    assert str(caught.value).startswith(f"cannot keep files in the cache; got {tmp_path}/file")
    assert str(caught.value).endswith("Not a directory; try: the same command with XDG_CACHE_HOME=FOLDER, "
                                      "another folder for the cache")  # fmt: skip


def test_a_full_cache(tmp_path, monkeypatch, small_files):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(
        BundleError, match=f"in the cache; got {tmp_path}/cache/aqd-deploy: File too large; try"
    ):
        cached("runner-1", lambda folder: fill(folder / "runner"))
    with pytest.raises(OSError, match="elsewhere") as caught:
        cached("runner-1", lambda folder: Path("/nowhere/elsewhere").read_bytes())
    assert caught.value.filename == "/nowhere/elsewhere"


def test_a_compiler_that_tells_of_a_full_disk(tmp_path):
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho \"x.o: 'No space left on device'\" >&2\nexit 1\n")
    compiler.chmod(0o755)
    broken = replace(native_toolchain(), command=(str(compiler),))
    with pytest.raises(ProgramError) as caught:
        write_atomically(tmp_path / "m.so", lambda path: broken.link(path, []))
    assert str(caught.value) == (
        f"cannot write {tmp_path}/m.so; got No space left on device; try: free some space there and "
        "repeat the command"
    )


def test_records_are_named(tmp_path, small_files):
    from aqd_deploy import targets
    from aqd_deploy.records.file import Header, RecordsFile

    host = targets.get("host")
    with pytest.raises(OSError) as caught, RecordsFile(tmp_path, Header.here(host), host) as records:
        records.define("key", "shape", {"text": "x" * 10_000})
    assert caught.value.filename == str(tmp_path / "records.jsonl")


def test_no_sentence_has_the_name_of_an_owned_folder(tmp_path):
    owned = TemporaryFolder(tmp_path)
    for error in (
        PermissionError(errno.EACCES, "Permission denied", str(owned.path / "a.png")),
        PermissionError(errno.EACCES, "Permission denied", os.fsencode(owned.path / "a.png")),
    ):
        assert sentence_of(error) == f"Permission denied: {tmp_path}"
        assert str(failure("it failed", error)) == f"it failed; got {tmp_path}: Permission denied"


def test_standard_output_is_named():
    with open("/dev/full", "w") as full:
        command = "import sys; from aqd_deploy.cli.main import invoke; sys.exit(invoke(['targets', 'list']))"
        done = subprocess.run([sys.executable, "-c", command], stdout=full, stderr=subprocess.PIPE, text=True)
    assert "error: No space left on device: standard output" in done.stderr


def test_folders_of_outputs_are_made_and_go_with_a_failure(tmp_path):
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "a" / "b" / "c") as path:
        path.write_text(str(1 // 0))
    assert list(tmp_path.iterdir()) == []
    with replacing(tmp_path / "a" / "b" / "c") as path:
        path.write_text("c")
    assert (tmp_path / "a" / "b" / "c").read_text() == "c"


def test_checking_an_output_makes_nothing(tmp_path):
    check_output(tmp_path / "a" / "b" / "c")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link"):
        with pytest.raises(AqdError, match=f"cannot be made; got .*{name}; valid: .*{name} is not a folder"):
            check_output(tmp_path / name / "b")


@pytest.mark.parametrize(
    "words",
    [
        ["lower", "MISSING.onnx", "-o", "OUT/m.int.onnx"],
        ["compile", "MISSING.onnx", "-o", "OUT/m.so"],
        ["run", "MISSING.so", "--input", "MISSING.npz", "-o", "OUT/y.npz"],
        ["package", "MISSING.so", "-o", "OUT/bundle"],
        ["export", "MISSING.pt", "-o", "OUT/m.qdq.onnx"],
    ],
    ids=lambda words: words[0],
)
def test_no_verb_leaves_a_folder_where_it_fails(words, tmp_path, capsys):
    places = [
        word.replace("OUT", f"{tmp_path}/a/b").replace("MISSING", f"{tmp_path}/missing") for word in words
    ]
    assert invoke(places) == 1
    assert "missing" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
