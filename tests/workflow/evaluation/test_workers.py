"""Processes that share pieces of work: all of it is done, whatever becomes of one of them."""

from __future__ import annotations

import pieces_of_work
import pytest

from aqd_deploy.errors import DeviceError, ImageError
from aqd_deploy.workflow.evaluation import workers
from aqd_deploy.workflow.evaluation.workers import WorkerEnded, Workers

NAMES = ["a", "b", "c", "d"]


@pytest.fixture
def paths(tmp_path):
    return [tmp_path / name for name in NAMES]


def test_each_process_has_a_part(paths):
    found = list(Workers(pieces_of_work.meet, 2).results(paths))
    assert sorted(name for name, _ in found) == NAMES
    assert len({process for _, process in found}) == 2


def test_a_board_that_is_lost(paths):
    lost: list[DeviceError] = []
    found = list(Workers(pieces_of_work.lose_once, 2, lost=lost.append).results(paths))
    assert sorted(found) == NAMES
    assert [error.sentence() for error in lost] == ["the board was lost; got nothing"]


def test_a_board_that_does_not_answer(paths, monkeypatch):
    monkeypatch.setattr(workers, "_SECONDS", 0.1)
    found = list(Workers(pieces_of_work.hang_once, 2, take_over=True).results(paths))
    assert sorted(found) == NAMES


def test_the_last_board_is_lost(paths):
    lost: list[DeviceError] = []
    with pytest.raises(DeviceError, match="the board was lost"):
        list(Workers(pieces_of_work.lose, 2, lost=lost.append).results(paths))
    assert len(lost) == 1


def test_what_else_a_function_raises_ends_it(paths):
    with pytest.raises(ImageError, match="not an image; got a"):
        list(Workers(pieces_of_work.refuse, 1).results(paths))


def test_a_process_that_ends(paths):
    with pytest.raises(WorkerEnded):
        list(Workers(pieces_of_work.end, 1).results(paths[:1]))
