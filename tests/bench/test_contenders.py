"""A peer that fails is listed, whatever it raises, and the others go on."""

from __future__ import annotations

import os

import pytest
from float_network import small_network

from aqd_deploy.bench.contenders import Field, add_peer, describe
from aqd_deploy.bench.peers.contract import Opened, Peer, Variant
from aqd_deploy.errors import PeerError


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return small_network(tmp_path_factory.mktemp("network"))


def peer(*variants: Variant) -> Peer:
    return Peer("fake", (), (), "pip install fake", variants)


def variant(name: str, run, modules: tuple[str, ...] = ()) -> Variant:
    return Variant(name, f"{name} of the fake", None, lambda _path, _network, _threads: Opened(run), modules)


def fails():
    os.write(1, b"native complaint\n")
    raise RuntimeError("no such layer")


def refuses():
    os.write(2, b"native complaint\n")
    raise PeerError("the fake cannot run the network")


class Odd(BaseException):
    """Nothing that a runtime raises."""


def test_every_form_on_every_number_of_threads(network):
    asked = []

    def opened(path, _network, threads):
        asked.append((path, threads))
        return Opened(lambda: threads, {"brgconv_avx512_amx_I8": 2})

    into = Field()
    fake = Variant("int8 fake", "INT8", None, opened)
    add_peer(into, peer(fake), network, [1, 2], lambda _: None)
    assert {key: run() for key, run in into.contenders.items()} == {
        ("fake int8 fake", 1): 1,
        ("fake int8 fake", 2): 2,
    }
    assert asked == [(network.float_model, 1), (network.float_model, 2)]
    (entry,) = describe(into)
    assert entry["int8"] and entry["peer"] == "fake"
    assert entry["convolutions"] == {"brgconv_avx512_amx_I8": 2}


def test_a_form_that_fails_is_listed_and_the_next_goes_on(network, capfd):
    into = Field()
    variants = (variant("float", fails), variant("int8", refuses), variant("int8 good", lambda: None))
    add_peer(into, peer(*variants), network, [1], lambda _: None)
    assert list(into.contenders) == [("fake int8 good", 1)]
    assert into.failed == [
        {
            "contender": "fake float",
            "reason": "it cannot run the network; got RuntimeError: no such layer",
        },
        {"contender": "fake int8", "reason": "the fake cannot run the network; got native complaint"},
    ]
    assert capfd.readouterr() == ("", "")


def test_a_form_whose_modules_are_missing_is_listed_with_the_command(network):
    into = Field()
    add_peer(into, peer(variant("int8", fails, ("surely_not_installed",))), network, [1], lambda _: None)
    assert into.missing == [{"peer": "fake int8", "next_command": "pip install fake"}]
    assert into.failed == [] and into.contenders == {}


def test_an_interruption_is_no_failure_of_the_peer(network):
    def interrupted():
        raise Odd

    with pytest.raises(Odd):
        add_peer(Field(), peer(variant("float", interrupted)), network, [1], lambda _: None)
