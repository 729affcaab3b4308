"""aqd_deploy.files: outputs appear whole, and only what nobody owns any more is swept."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from aqd_deploy import files
from aqd_deploy.errors import BundleError
from aqd_deploy.files import TemporaryFolder, made_once, replacing, replacing_folder, sweep

OWNER = """
import sys, time
from pathlib import Path
from aqd_deploy.files import TemporaryFolder
folder = TemporaryFolder(Path(sys.argv[1]))
(folder.path / "deep").mkdir()
(folder.path / "deep" / "file").write_text("half")
print(folder.owned, flush=True)
time.sleep(600)
"""


@pytest.fixture
def owner(tmp_path):
    """A living process that owns a folder in `tmp_path`, and that folder."""
    process = subprocess.Popen([sys.executable, "-c", OWNER, tmp_path], stdout=subprocess.PIPE, text=True)
    yield process, Path(process.stdout.readline().strip())
    process.kill()
    process.communicate()


def test_what_a_killed_process_owned_goes_with_the_next_folder(owner, tmp_path):
    process, owned = owner
    (tmp_path / "foreign").write_text("")
    with TemporaryFolder(tmp_path):
        assert (owned / "files" / "deep" / "file").exists()
    process.send_signal(signal.SIGKILL)
    process.wait()
    with TemporaryFolder(tmp_path) as folder:
        assert sorted(tmp_path.iterdir()) == sorted([folder.parent, tmp_path / "foreign"])
    assert list(tmp_path.iterdir()) == [tmp_path / "foreign"]


def test_outputs_that_are_written_sweep_too(owner, tmp_path):
    process, _ = owner
    process.send_signal(signal.SIGKILL)
    process.wait()
    with replacing(tmp_path / "a.txt") as path:
        path.write_text("a")
    assert list(tmp_path.iterdir()) == [tmp_path / "a.txt"]


def leave(parent: Path, kernel: str, *, lock: bool = True) -> Path:
    """What a process under `kernel` left in `parent`."""
    owned = parent / f".aqd-deploy-{kernel}-abcdefgh"
    owned.mkdir()
    if lock:
        (owned / "lock").touch()
        (owned / "files").mkdir()
        (owned / "files" / "x").touch()
    return owned


def test_a_process_killed_before_it_had_its_lock(tmp_path):
    owned = leave(tmp_path, files._kernel(), lock=False)
    sweep(tmp_path)
    assert not owned.exists()


def test_owners_on_other_hosts(tmp_path, monkeypatch):
    """In a folder that other hosts may share their locks may be invisible: a week has to pass."""
    owned = leave(tmp_path, "0" * 12)
    monkeypatch.setattr(files.os, "major", lambda device: 0)
    sweep(tmp_path)
    assert owned.exists()
    week = time.time() - 8 * 24 * 3600
    os.utime(owned / "lock", (week, week))
    sweep(tmp_path)
    assert not owned.exists()


def test_after_a_loss_of_power(tmp_path, monkeypatch):
    """The kernel is another one then, but nobody else writes to a disk of this machine."""
    owned = leave(tmp_path, "0" * 12)
    monkeypatch.setattr(files.os, "major", lambda device: 259)
    sweep(tmp_path)
    assert not owned.exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks(tmp_path, monkeypatch, number):
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.fcntl, "flock", fail)
    with TemporaryFolder(tmp_path) as first, TemporaryFolder(tmp_path):
        assert first.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_what_only_looks_like_ours_stays(tmp_path):
    kernel = files._kernel()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "lock").touch()
    (elsewhere / "mine").touch()
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / f".aqd-deploy-{kernel}-abcdefgh").symlink_to(elsewhere)
    (folder / f".aqd-deploy-{kernel}-abcdefg1").write_text("a file")
    (folder / f".aqd-deploy-{kernel}-abcdefg").mkdir()
    full = folder / f".aqd-deploy-{kernel}-abcdefg2"
    full.mkdir()
    (full / "mine").touch()
    before = sorted(tmp_path.rglob("*"))
    with TemporaryFolder(folder):
        pass
    assert sorted(tmp_path.rglob("*")) == before


def test_links_within_are_not_followed(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    with TemporaryFolder(tmp_path) as folder:
        (folder / "link").symlink_to(tmp_path / "mine")
    assert (tmp_path / "mine" / "file").exists()


def test_a_forked_child_removes_nothing(tmp_path):
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom aqd_deploy.files import TemporaryFolder\n"
        "folder = TemporaryFolder(Path(sys.argv[1]))\n"
        "if os.fork() == 0:\n    sys.exit()\nos.wait()\nassert folder.path.is_dir()\n"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "moment", ["os.mkdir", "os.open", "os.fsync", "os.rename", "os.replace", "os.rmdir", "os.unlink"]
)
def test_terminated_at_a_bad_moment(tmp_path, moment):
    """SIGTERM right behind a call of the system: nothing is left, in the second folder either."""
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom aqd_deploy import files\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        f"real = {moment}\n"
        "def signalled(*arguments, **options):\n"
        f"    {moment} = real\n    result = real(*arguments, **options)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n    return result\n"
        f"{moment} = signalled\n"
        "with files.replacing(Path(sys.argv[1]) / 'a') as path:\n    path.write_text('a')\n"
        "with files.replacing_folder(Path(sys.argv[1]) / 'b') as folder:\n    (folder / 'x').touch()\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], check=False)
    assert done.returncode == 143
    assert {path.name for path in tmp_path.iterdir()} <= {"a", "b"}


def test_many_processes_at_once(tmp_path):
    code = (
        "import sys\nfrom pathlib import Path\nfrom aqd_deploy.files import TemporaryFolder\n"
        "for _ in range(150):\n"
        "    with TemporaryFolder(Path(sys.argv[1])) as folder:\n        (folder / 'x').write_text('x')\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, tmp_path]) for _ in range(4)]
    assert [process.wait() for process in running] == [0] * 4
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "named", [{}, {"TMPDIR": "a"}, {"TEMP": "a"}, {"TMP": "a", "TEMP": "b"}, {"TMPDIR": "none", "TEMP": "a"}]
)
def test_where_temporary_folders_are(tmp_path, monkeypatch, named):
    """As Python says, which tries the folder by writing to it."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    for key in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.delenv(key, raising=False)
    for key, value in named.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(tempfile, "tempdir", None)
    expected = tempfile.gettempdir()
    monkeypatch.setattr(tempfile, "tempdir", None)
    if named.get("TMPDIR") != "none":
        monkeypatch.setattr(tempfile, "_get_default_tempdir", None)
    assert files.temporary_root() == expected


def test_the_process_changes_its_folder_meanwhile(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with files.TemporaryFolder(".") as folder:
        monkeypatch.chdir("/")
        (folder / "a").write_text("a")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_the_old_file(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "a") as path:
        path.write_text("half")
        raise ZeroDivisionError
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def replace(output: Path, text: str) -> None:
    with replacing_folder(output) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "file").write_text(text)


def test_there_is_a_folder_at_any_time(tmp_path):
    output = tmp_path / "b"
    replace(output, "0")
    missing, stop = [], threading.Event()

    def look() -> None:
        while not stop.is_set():
            if not output.exists():
                missing.append(time.monotonic())

    watcher = threading.Thread(target=look)
    watcher.start()
    for index in range(100):
        replace(output, str(index))
    stop.set()
    watcher.join()
    if not files._exchange(output, output):
        pytest.skip("this file system cannot exchange two folders")
    assert missing == []
    assert (output / "sub" / "file").read_text() == "99"
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_folder_that_may_not_be_renamed(tmp_path, monkeypatch, exchanges):
    output = tmp_path / "isdir"
    replace(output, "old")
    refuse_to_rename(monkeypatch, output, exchanges)
    with pytest.raises(OSError, match="busy"):
        replace(output, "new")
    assert list(tmp_path.iterdir()) == [output]
    assert (output / "sub" / "file").read_text() == "old"


def refuse_to_rename(monkeypatch, output: Path, exchanges: bool) -> None:
    """Let the system refuse to rename `output`, as it does for the mount point of a volume."""

    def refused(path: object, *_: object) -> None:
        if Path(str(path)) == output:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    rename = os.rename

    def checked(source: object, target: object) -> None:
        refused(source)
        rename(source, target)

    def exchange(first: Path, second: Path) -> bool:
        if exchanges:
            refused(second)
        return False

    monkeypatch.setattr(os, "rename", checked)
    monkeypatch.setattr(os, "replace", checked)
    monkeypatch.setattr(files, "_exchange", exchange)


def test_a_failure_without_exchange_puts_the_old_one_back(tmp_path, monkeypatch):
    output = tmp_path / "b"
    replace(output, "old")
    rename = os.rename
    monkeypatch.setattr(files, "_exchange", lambda *_: False)

    def checked(source: object, target: object) -> None:
        if Path(str(target)) == output and "aside" not in str(source):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(source, target)

    monkeypatch.setattr(os, "rename", checked)
    with pytest.raises(OSError, match="error"):
        replace(output, "new")
    assert list(tmp_path.iterdir()) == [output]
    assert (output / "sub" / "file").read_text() == "old"


def test_killed_between_two_renames(tmp_path):
    """Where there is no exchange, the next run finds the old folder again."""
    output = tmp_path / "b"
    replace(output, "old")
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom aqd_deploy import files\n"
        "output, rename = Path(sys.argv[1]), os.rename\n"
        "files._exchange = lambda *_: False\n"
        "def once(*paths):\n    rename(*paths)\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "os.rename = once\n"
        "with files.replacing_folder(output) as folder:\n    (folder / 'new').touch()\n"
    )
    assert subprocess.run([sys.executable, "-c", code, output], check=False).returncode == -signal.SIGKILL
    assert not output.exists()
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == [output]
    assert (output / "sub" / "file").read_text() == "old"


def test_a_folder_is_made_once(tmp_path):
    made = []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "x").touch()

    for _ in range(2):
        assert (made_once(tmp_path / "cache" / "key", make) / "x").exists()
    assert len(made) == 1
    with pytest.raises(ZeroDivisionError):
        made_once(tmp_path / "cache" / "other", lambda folder: 1 / 0)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["key"]


def test_a_bundle_that_may_not_be_replaced(tmp_path, monkeypatch):
    """The sentence, and nothing beside the old bundle."""
    from aqd_deploy.bundle import create

    output = tmp_path / "isdir"
    output.mkdir()
    monkeypatch.setattr(create, "_fill", lambda folder, *_: (folder / "x").touch())
    container = SimpleNamespace(manifest={"program": {"target": None}}, data=b"")
    monkeypatch.setattr(create, "read_container", lambda _: container)
    monkeypatch.setattr(create, "check_packaged", lambda *_: None)
    monkeypatch.setattr(create, "_target", lambda _: None)
    monkeypatch.setattr(create, "runtime_libraries", lambda *_: [])
    monkeypatch.setattr(create, "build_runner", lambda *_: None)
    refuse_to_rename(monkeypatch, output, exchanges=True)
    with pytest.raises(BundleError, match=r"cannot write .*isdir; got Device or resource busy"):
        create.create_bundle(tmp_path / "p.so", output)
    assert list(tmp_path.iterdir()) == [output]
    assert list(output.iterdir()) == []
