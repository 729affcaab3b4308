"""`bench --layers` of a program for a card, which the emulation runs."""

import json
from dataclasses import replace

import pytest
from card_emulation import SourceCompiler, SourceDriver
from small_models import ModelWriter

from aqd_deploy.cli.main import invoke
from aqd_deploy.compiler import compile_model
from aqd_deploy.targets import get

MICROSECONDS = 7.0


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    writer = ModelWriter(seed=1)
    image = writer.image("image", 3, 9, 9)
    made = writer.bias(writer.conv(image, writer.weight(8, 3, 3, 4), pads=[1, 1, 1, 1]), 8)
    writer.output(made)
    path = tmp_path_factory.mktemp("card") / "p.so"
    compile_model(writer.model(), path, target="cuda-sm80", toolchain=SourceCompiler())
    return path


@pytest.fixture
def card(monkeypatch):
    def driver(index):
        return SourceDriver(lambda _: MICROSECONDS)

    monkeypatch.setattr("aqd_deploy.devices.cuda.CudaDriver", driver)


def test_every_layer_has_its_time_and_its_share_of_the_data_sheet(program, card, capsys):
    words = ["bench", str(program), "--device", "cuda", "--layers", "--rounds", "1", "--runs", "1"]
    assert invoke([*words, "--json"]) == 0
    (measured,) = json.loads(capsys.readouterr().out)["measured"]
    target = get("cuda-sm80")
    peak = target.clock_ghz * target.int8_macs_per_cycle * target.cores
    assert measured["peak_gmacs_per_s"] == {"data sheet": pytest.approx(peak, abs=0.01)}  # two digits
    launched = [entry for entry in measured["layers"] if entry["ms"]]
    assert [entry["ms"] for entry in launched] == [MICROSECONDS / 1e3] * len(launched)
    (conv,) = (entry for entry in launched if entry["macs"])
    share = conv["executed_macs"] / (MICROSECONDS * 1e-6) / (peak * 1e9)
    assert conv["share_of_peak"] == pytest.approx(share, abs=1e-4)  # four digits
    assert invoke(words) == 0
    shown = capsys.readouterr().out
    assert "peak: data sheet" in shown and "measured peak" not in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_a_profile_that_does_not_say_what_the_card_could_do(program, card, monkeypatch, capsys):
    monkeypatch.setattr("aqd_deploy.bench.device.get", lambda name: replace(get(name), bandwidth_gb_s=None))
    assert invoke(["bench", str(program), "--device", "cuda", "--layers", "--rounds", "1"]) == 1
    assert "got no bandwidth_gb_s; valid: a profile with clock_ghz" in capsys.readouterr().err
