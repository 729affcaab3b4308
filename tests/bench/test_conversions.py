"""Conversions happen in another process, once, and a converter's failure is one sentence."""

from __future__ import annotations

import subprocess

import pytest
from float_network import small_network

from aqd_deploy import processes
from aqd_deploy.bench.peers import convert
from aqd_deploy.bench.peers.convert import converted
from aqd_deploy.bench.peers.onnxruntime import QDQ, QDQ_FILE
from aqd_deploy.errors import PeerError


@pytest.fixture
def network(tmp_path):
    return small_network(tmp_path)


def test_a_conversion_is_kept(network, monkeypatch):
    folder = converted(QDQ, network)
    assert (folder / QDQ_FILE).stat().st_size > 0
    assert "onnxruntime-" in folder.name
    monkeypatch.setattr(processes, "run", lambda *_, **__: pytest.fail("converted again"))
    assert converted(QDQ, network) == folder


def test_a_failing_converter_leaves_nothing_and_says_why(network):
    network.float_model.write_bytes(b"no model")
    before = sorted(network.folder.iterdir())
    with pytest.raises(PeerError, match="could not be converted; got ") as caught:
        converted(QDQ, network)
    assert "\n" not in caught.value.sentence()
    assert "Traceback" not in caught.value.sentence()
    assert sorted(network.folder.iterdir()) == before


@pytest.mark.parametrize(
    ("code", "stderr", "expected"),
    [
        (-11, "", "signal SIGSEGV, no message"),
        (-6, "what(): vector\n\n", "signal SIGABRT, what(): vector"),
        (1, "noise\nconversion failed: ValueError: 7\nmore noise", "ValueError: 7"),
    ],
)
def test_what_is_said_of_a_child_that_died(network, monkeypatch, code, stderr, expected):
    done = subprocess.CompletedProcess([], code, "", stderr)
    monkeypatch.setattr(processes, "run", lambda *_, **__: done)
    with pytest.raises(PeerError) as caught:
        converted(QDQ, network)
    assert caught.value.received == expected


def test_a_conversion_that_never_ends(network, monkeypatch):
    def run(command, **_):
        raise subprocess.TimeoutExpired(command, convert.TIMEOUT_SECONDS)

    monkeypatch.setattr(processes, "run", run)
    with pytest.raises(PeerError, match="too long"):
        converted(QDQ, network)
