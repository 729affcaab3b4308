"""Files of one verb beside those of another."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from aqd_deploy import own_files
from aqd_deploy.errors import AqdError
from aqd_deploy.own_files import LIST, OwnFiles, written_in


def write(folder, verb, *names):
    with OwnFiles(folder, verb, names, ()) as own:
        for name in names:
            (own.staging / "x").write_text(f"{verb} {name!r}")
            own.publish(own.staging / "x", name)


def test_verbs_know_their_own_files_only(tmp_path):
    write(tmp_path, "demo", "a", "b")
    write(tmp_path, "detect", "c")
    write(tmp_path, "demo", "a")
    assert written_in(tmp_path) == {"a", "b", "c"}
    for verb, name in (("detect", "b"), ("demo", "c")):
        with pytest.raises(AqdError, match=f"not known to be written by {verb}"):
            write(tmp_path, verb, name)
    with OwnFiles(tmp_path, "demo", (), ()) as own:
        assert sorted(own.earlier()) == ["a", "b"]
        own.remove(["a", "c", "none"])
    assert sorted(path.name for path in tmp_path.iterdir()) == [LIST, "b", "c"]
    assert written_in(tmp_path) == {"b", "c"}


def test_a_changed_file_is_somebody_elses(tmp_path):
    write(tmp_path, "demo", "a", "b")
    (tmp_path / "a").write_text("mine")
    assert written_in(tmp_path) == {"b"}
    with pytest.raises(AqdError, match="not known to be written by demo"):
        write(tmp_path, "demo", "a")
    (tmp_path / "a").unlink()
    (tmp_path / "a").symlink_to("b")
    with pytest.raises(AqdError, match="not known to be written by demo"):
        write(tmp_path, "demo", "a")


def test_a_folder_that_nothing_came_into_goes(tmp_path):
    with OwnFiles(tmp_path / "new" / "out", "demo", ["a"], ()):
        assert (tmp_path / "new" / "out").is_dir()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("mine")
    with pytest.raises(AqdError, match="the output is a file"), OwnFiles(tmp_path / "file", "demo", [], ()):
        pass
    with pytest.raises(AqdError, match="known to be written"), OwnFiles(tmp_path, "demo", ["file"], ()):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_list_of_an_earlier_run_stays_where_this_one_fails(tmp_path):
    write(tmp_path, "demo", "a")
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(AqdError), OwnFiles(tmp_path, "demo", ["mine"], ()):
        pass
    assert written_in(tmp_path) == {"a"}
    assert [json.loads(line)["name"] for line in (tmp_path / LIST).read_text().splitlines()] == ["a"]


def test_names_of_any_bytes(tmp_path):
    for _ in range(2):
        write(tmp_path, "demo", os.fsdecode(b"\xff.png"), "a%41 \n\u00e9")
    assert written_in(tmp_path) == {os.fsdecode(b"\xff.png"), "a%41 \n\u00e9"}


@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
def test_a_list_that_is_none(tmp_path, kind):
    """Nothing waits for a reader, and nothing is made where a link leads."""
    folder = tmp_path / "out"
    folder.mkdir()
    match kind:
        case "pipe":
            os.mkfifo(folder / LIST)
        case "link":
            (folder / LIST).symlink_to(tmp_path / "elsewhere")
        case "folder":
            (folder / LIST).mkdir()
    with pytest.raises(AqdError, match=f"known to be written by demo; got .*{LIST}"):
        write(folder, "demo", "a")
    assert not (tmp_path / "elsewhere").exists() and [p.name for p in folder.iterdir()] == [LIST]


def test_a_full_disk_is_told_with_its_folder(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with OwnFiles(tmp_path, "demo", ["a"], ()) as own:
        (own.staging / "x").write_text("x")
        monkeypatch.setattr(own_files.json, "dumps", full)
        with pytest.raises(OSError, match="No space left") as caught:
            own.publish(own.staging / "x", "a")
    assert caught.value.filename == str(tmp_path)


def test_a_folder_that_goes_meanwhile(tmp_path):
    with (
        pytest.raises(AqdError, match="the output folder went while it was written to"),
        OwnFiles(tmp_path / "out", "demo", ["a"], ()) as own,
    ):
        shutil.rmtree(tmp_path / "out")
        own.publish(own.staging / "x", "a")
