"""Tuning over a farm: a real tracker with two servers, both used, one killed in the middle."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from aqd_deploy.devices.rpc_tracker import Tracker
from aqd_deploy.errors import DeviceError, TargetError
from aqd_deploy.records.file import REJECTED, read_records
from aqd_deploy.targets import get
from aqd_deploy.tuning.tune import check_device, tune


class Enough(Exception):
    """Ends a run when it has measured what the test wants."""


@pytest.fixture
def farm(tmp_path, monkeypatch):
    pytest.importorskip("tornado")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "devices"))
    from rpc_farm import rpc_farm

    with rpc_farm(tmp_path, 2) as running:
        yield running


@pytest.fixture
def model():
    import small_models

    return small_models.tiny_network()


@pytest.mark.e2e
def test_both_boards_measure_and_one_may_go(farm, model, tmp_path):
    killed_at: list[int] = []

    def kill_while_it_measures():
        while farm.sessions(1) < 2:
            time.sleep(0.01)
        time.sleep(0.05)
        farm.kill(1)
        killed_at.append(farm.sessions(0))

    def until_enough(now):
        if killed_at and farm.sessions(0) >= killed_at[0] + 5:
            raise Enough

    thread = threading.Thread(target=kill_while_it_measures, daemon=True)
    thread.start()
    records = tmp_path / "records"
    options = {"target": get("host").profile, "threads": 1, "tracker": farm.tracker}
    with pytest.raises(Enough):
        tune(model, records, budget=600, on_progress=until_enough, **options)
    thread.join()
    found = read_records(records / "records.jsonl")
    assert found.header.cpu == farm.tracker.key
    lost = [record.reason for record in found.candidates if record.state == REJECTED]
    assert len(lost) <= 1, lost
    assert len(found.candidates) >= 6
    assert farm.sessions(0) >= 5 and farm.sessions(1) == 2
    farm.kill(0)
    with pytest.raises(DeviceError, match="no board with this key"):
        tune(model, records, budget=600, **options)


def test_boards_need_a_named_target():
    with pytest.raises(TargetError, match=r"profile's name.*--device rpc:h:1/k"):
        check_device(get("host"), 1, Tracker("h", 1, "k"))
