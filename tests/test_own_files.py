"""Files of one verb beside those of another."""

from __future__ import annotations

import json

import pytest

from aqd_deploy.errors import AqdError
from aqd_deploy.own_files import LIST, OwnFiles, written_in


def write(folder, verb, *names):
    with OwnFiles(folder, verb, names, ()) as own:
        for name in names:
            (own.staging / "x").write_text(f"{verb} {name}")
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
