"""What a run has finished is there for the next one of the same, and for no other."""

import numpy as np
import pytest

from aqd_deploy.errors import StorageError
from aqd_deploy.quantization.state import State


def test_results_are_made_once(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"x": np.arange(3)}

    for _ in range(2):
        assert State(tmp_path / "s", "key").once("layer", make)["x"].tolist() == [0, 1, 2]
    assert len(made) == 1


def test_another_key_begins_again(tmp_path):
    State(tmp_path / "s", "key").put("layer", {"x": np.arange(3)})
    assert State(tmp_path / "s", "other").get("layer") is None
    assert not (tmp_path / "s").exists()


def test_nothing_is_made_before_there_is_a_result(tmp_path):
    state = State(tmp_path / "s", "key")
    state.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_result_is_none(tmp_path):
    state = State(tmp_path / "s", "key")
    state.put("layer", {"x": np.arange(3)})
    (file,) = (tmp_path / "s").glob("*.npz")
    file.write_bytes(b"PK\x03\x04 half")
    assert state.get("layer") is None


def test_a_folder_of_someone_else_stays(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "photo.jpg").touch()
    with pytest.raises(StorageError, match="with other things in it"):
        State(tmp_path / "s", "key")
    assert (tmp_path / "s" / "photo.jpg").exists()


def test_without_a_folder_results_are_those_of_one_run():
    state = State()
    state.put("layer", {"x": np.arange(3)})
    assert state.get("layer") is not None and state.get("another") is None
    assert State().get("layer") is None


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "s").mkdir()
    state = State(tmp_path / "s", "key")
    state.put("layer", {"x": np.arange(3)})
    assert state.get("layer") is not None
