"""Random networks: the integer file against the float run of the QDQ file, and every proven range."""

import json

import numpy as np
import pytest
from qdq_graphs import random_graph, random_image

from aqd_deploy.integer.inspect import float_tensors
from aqd_deploy.integer.reference import ReferenceRunner
from aqd_deploy.passes.pipeline import lower


@pytest.mark.parametrize("first", range(0, 60, 10))
def test_heads_and_ranges(first):
    """Ten networks a case. A float32 run may flip a decision at a tie, so a few values may differ."""
    disagreement = []
    for seed in range(first, first + 10):
        qdq = random_graph(seed)
        result = lower(qdq)
        manifest = json.loads(result.model.metadata_props[0].value)
        image = {"image": random_image(qdq, seed)}
        floats = ReferenceRunner(qdq, threads=1).run(image)
        integers = ReferenceRunner(result.model, threads=1, with_intermediates=True).run(image)
        assert float_tensors(result.model) == []
        for name, bounds in manifest["ranges"].items():
            if name in integers:
                assert bounds["lo"] <= integers[name].min() and integers[name].max() <= bounds["hi"], name
        for name, entry in manifest["outputs"].items():
            scale = np.array(entry["scale"]).reshape(1, -1, 1, 1)
            bound = result.report["output_errors"][name] * scale + 1e-4 * np.abs(floats[name]).max()
            disagreement.append((np.abs(integers[name] * scale - floats[name]) > bound).mean())
    assert np.mean(disagreement) < 0.02
