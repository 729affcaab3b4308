"""The document of a measurement is one, wherever it was made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from documents import document

from aqd_deploy.bench.document import bench_document, measured_with

OURS, PEER = np.array([[0.040, 0.042]] * 3), np.array([[0.080, 0.084]] * 3)


def whole(**changed):
    return bench_document(
        Path("m.so"), {"name": "m"}, environment={}, measured=[measured_with(2, OURS)], rounds=3, runs=2,
        **changed,
    )  # fmt: skip


def test_it_has_the_keys_that_its_readers_take():
    expected = list(document({"ratios": {}}))
    assert list(whole()) == expected
    assert list(whole(device="ssh:board")) == [*expected[:3], "device", *expected[3:]]


def test_what_was_measured_alone():
    alone = measured_with(2, OURS)
    assert list(alone) == ["threads", "contenders", "spread", "ratios", "fastest_int8"]
    assert alone["contenders"]["aqd-deploy"]["min_ms"] == 40.0
    assert list(alone["contenders"]) == ["aqd-deploy"] and alone["ratios"] == alone["fastest_int8"] == {}


def test_what_was_measured_beside_a_peer():
    beside = measured_with(2, OURS, {"peer int8": PEER}, {"peer": "peer int8"})
    assert list(beside["contenders"]) == ["aqd-deploy", "peer int8"]
    assert beside["ratios"]["peer int8"]["of_minima"] == 0.5
    assert beside["fastest_int8"] == {"peer": "peer int8"}
