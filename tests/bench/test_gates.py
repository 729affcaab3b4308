"""Promises that a CI can hold, and what happens where they cannot be checked."""

from __future__ import annotations

import pytest
from documents import document, measured, ratio

from aqd_deploy.bench.gates import check_gates, parse_ratio
from aqd_deploy.errors import AqdError, GateError

TWO = document(
    measured(1, openvino_int8_qdq=ratio(0.4), openvino_int8_nncf=ratio(0.5), openvino_float=ratio(0.1)),
    measured(2, openvino_int8_qdq=ratio(0.4), openvino_int8_nncf=ratio(0.6), openvino_float=ratio(0.1)),
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("openvino=0.55", ("openvino", 0.55)), ("openvino float=1", ("openvino float", 1.0))],
)
def test_a_ratio(text, expected):
    assert parse_ratio(text, ["openvino"]) == expected


@pytest.mark.parametrize("text", ["", "openvino", "=0.5", "openvino=fast", "openvino=0", "openvino=nan"])
def test_what_is_not_a_ratio(text):
    with pytest.raises(AqdError, match="not a ratio"):
        parse_ratio(text, ["openvino"])


def test_a_ratio_to_a_peer_that_is_not_asked_for():
    with pytest.raises(AqdError, match="--against onnxruntime,openvino"):
        parse_ratio("openvino=0.5", ["onnxruntime"])


@pytest.mark.parametrize(
    "limits", [[("openvino", 0.6)], [("openvino int8 qdq", 0.4), ("openvino float", 0.1)], []]
)
def test_promises_that_hold(limits):
    check_gates(TWO, 42.0, limits)


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        # It holds on one thread, not on two.
        ([("openvino", 0.55)], r"openvino int8 nncf with 2 thread\(s\).*got 0.6.*at most 0.55"),
        ([("openvino int8 qdq", 0.39)], r"openvino int8 qdq with 1 thread\(s\)"),
        ([("mnn", 0.5)], "was not measured"),
    ],
)
def test_promises_that_do_not_hold(limits, told):
    with pytest.raises(GateError, match=told):
        check_gates(TWO, None, limits)


def test_latency():
    with pytest.raises(GateError, match="--max-ms"):
        check_gates(TWO, 41.9, [])
