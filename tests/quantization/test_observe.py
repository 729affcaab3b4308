"""What is seen of tensors, against all their values at once."""

import weakref

import numpy as np
import pytest
from float_graphs import chain, float_graph, pictures

from aqd_deploy.errors import CalibrationError
from aqd_deploy.quantization import observe as module
from aqd_deploy.quantization.calibration import Calibration
from aqd_deploy.quantization.network import Network
from aqd_deploy.quantization.observe import BINS, observe
from aqd_deploy.quantization.progress import Run
from aqd_deploy.quantization.session import Session
from aqd_deploy.quantization.state import State

NAMES = ["image", "r", "s"]


def values(model, images):
    session = Session(model, NAMES)
    found = [session(feed) for feed in images.feeds()]
    return {name: np.concatenate([each[name] for each in found]) for name in NAMES}


@pytest.mark.parametrize("together", [1, 1 << 28])
def test_ranges_and_histograms(monkeypatch, together):
    monkeypatch.setattr(module, "_TOGETHER", together)
    model, images = chain(), pictures(7)
    expected = values(model, images)
    for name, seen in observe(model, NAMES, images, Run(), histograms=True).items():
        whole = expected[name]
        by_channel = np.moveaxis(whole, 1, 0).reshape(whole.shape[1], -1)
        np.testing.assert_array_equal(seen.channel_low, by_channel.min(axis=1))
        np.testing.assert_array_equal(seen.channel_high, by_channel.max(axis=1))
        counts, _ = np.histogram(whole, BINS, (seen.low, seen.high))
        # A value at an edge may fall to either side.
        assert np.abs(np.cumsum(seen.counts) - np.cumsum(counts)).max() <= 4
        assert seen.counts.sum() == whole.size


def test_a_tensor_that_never_changes():
    model = float_graph("z = Sub(image, image) y = Conv (z, w)", {"w": (2, 3, 1, 1)})
    seen = observe(model, ["z"], pictures(2), Run(), histograms=True)["z"]
    assert (seen.low, seen.high, seen.counts[0]) == (0, 0, 2 * 3 * 64)


@pytest.mark.parametrize("body", ["z = Log(image)", "e = Sub(image, image) z = Div(image, e)"])
def test_a_network_that_makes_no_numbers(body):
    model = float_graph(f"{body} y = Conv (z, w)", {"w": (2, 3, 1, 1)})
    with pytest.raises(CalibrationError, match="isn't finite of calibration image 0; got z from"):
        observe(model, ["z"], pictures(2), Run())


def test_a_single_nan():
    model = float_graph("z = Sqrt(image) y = Conv (z, w)", {"w": (2, 3, 1, 1)})
    image = np.ones((1, 3, 8, 8), np.float32)
    image[0, 1, 4, 5] = -1
    with pytest.raises(CalibrationError, match="got z from 1 to 1, nan in the mean"):
        observe(model, ["z"], Calibration.of([{"image": image}]), Run())


def test_what_is_finished_is_not_seen_again(tmp_path):
    model = chain()
    first = observe(model, NAMES, pictures(3), Run(state=State(tmp_path / "s", "k")), histograms=True)
    told = []
    run = Run(told.append, state=State(tmp_path / "s", "k"))
    again = observe(model, NAMES, pictures(3), run, histograms=True)
    assert told == []
    for name in NAMES:
        np.testing.assert_array_equal(first[name].counts, again[name].counts)
        np.testing.assert_array_equal(first[name].channel_low, again[name].channel_low)


def test_progress_counts_images():
    told = []
    observe(chain(), NAMES, pictures(3), Run(told.append))
    assert [(each.stage, each.done, each.total) for each in told] == [
        ("ranges", 0, 3), ("ranges", 1, 3), ("ranges", 2, 3), ("ranges", 3, 3)
    ]  # fmt: skip
    assert told[0].left is None and told[-1].left == 0


def test_images_do_not_pile_up():
    alive, most = set(), 0

    def feeds():
        nonlocal most
        for index in range(12):
            image = np.full((1, 3, 8, 8), index, np.float32)
            alive.add(index)
            weakref.finalize(image, alive.discard, index)
            most = max(most, len(alive))
            yield {"image": image}
            del image

    observe(chain(), NAMES, Calibration(12, feeds, ""), Run(), histograms=True)
    assert most <= 2


def test_networks_with_tensors_of_the_same_names_are_told_apart():
    """A step has changed weights in between; one run observes both."""
    first = Network.of(chain())
    second = first.with_arrays({"w1": 2 * first.array("w1"), "b1": 2 * first.array("b1")})
    run, images = Run(), pictures(3)
    found = [observe(each.model, ["a"], images, run, histograms=True)["a"] for each in (first, second)]
    np.testing.assert_allclose(found[1].channel_high, 2 * found[0].channel_high, rtol=1e-5)
    assert found[1].edges[-1] > 1.9 * found[0].edges[-1]
