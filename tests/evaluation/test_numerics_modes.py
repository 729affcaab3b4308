"""The numerics modes side by side on one network."""

from __future__ import annotations

import numpy as np
import pytest
from qdq_graphs import QdqBuilder, random_graph, random_image

from aqd_deploy.errors import AqdError
from aqd_deploy.evaluation import numerics
from aqd_deploy.evaluation.lowered import Lowered
from aqd_deploy.evaluation.numerics import compare_numerics
from aqd_deploy.integer.reference import ReferenceRunner
from aqd_deploy.passes.numerics import MODES


@pytest.fixture(scope="module")
def subject():
    model = random_graph(2, bits=4)
    feeds = [{"image": random_image(model, seed)} for seed in (2, 3)]
    runner = ReferenceRunner(model, threads=1)
    return model, feeds, [runner.run(each) for each in feeds]


def judge(outputs, manifest):
    """How many images, and whose numerics."""
    return {"images": len(outputs), manifest["lowering"]["numerics"]: 1.0}


def test_exact_agrees_best_and_power_of_two_worst(subject):
    rows = compare_numerics(*subject, judge, threads=1)
    assert tuple(rows) == MODES
    differing = [rows[mode].differing_codes["differing"] for mode in MODES]
    assert differing[0] == 0 < differing[1] < differing[2]
    correlations = [rows[mode].agreement["correlation"] for mode in MODES]
    assert correlations[0] > correlations[1] > correlations[2]
    assert all(rows[mode].accuracy == {"images": 2, mode: 1.0} for mode in MODES)
    assert set(rows["exact"].told()) == {"accuracy", "agreement", "differing_codes", "proven_share"}


def test_codes_are_compared_on_the_first_images_only(subject):
    model, feeds, fake = subject
    known = {"exact": Lowered.of(model)}
    one, two = (
        compare_numerics(model, feeds, fake, judge, code_images=count, known=known, threads=1)["exact"]
        for count in (1, 2)
    )
    assert 2 * one.differing_codes["count"] == two.differing_codes["count"]


def test_what_a_mode_refuses_is_told(subject, monkeypatch):
    def refusing(qdq, mode):
        raise AqdError("not this one", received=mode)

    model, feeds, fake = subject
    known = {"exact": Lowered.of(model)}
    monkeypatch.setattr(numerics.Lowered, "of", refusing)
    rows = compare_numerics(model, feeds, fake, judge, known=known, threads=1)
    assert rows["exact"].refused == "" and rows["exact"].accuracy is not None
    assert rows["paper"].told() == {"refused": AqdError("not this one", received="paper").sentence()}


def test_no_images_are_refused():
    with pytest.raises(AqdError, match="no images"):
        compare_numerics(random_graph(0), [], [], judge)


def test_a_network_without_quantizers_of_its_own_has_no_codes_to_compare():
    b = QdqBuilder(3)
    b.output(b.conv(b.image(), 2, 8), "out")
    model = b.build()
    feeds = [{"image": random_image(model, 0)}]
    fake = [ReferenceRunner(model, threads=1).run(feeds[0])]
    rows = compare_numerics(model, feeds, fake, lambda outputs, manifest: None, threads=1)
    assert rows["exact"].differing_codes == {"differing": 0, "count": 0, "largest": 0.0}
    assert rows["exact"].accuracy is None and np.isfinite(rows["exact"].agreement["max_abs"])
