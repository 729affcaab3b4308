"""Programs for cards of the writers' networks, emulated: not one integer differs from onnxruntime."""

import networks
import numpy as np
import onnx
import pytest
from card_emulation import SETTINGS, emulated
from writers import WRITERS

from aqd_deploy.compiler.planning import plan_for_card
from aqd_deploy.evaluation.compare import compare_integers, total_difference
from aqd_deploy.integer.reference import ReferenceRunner
from aqd_deploy.passes.pipeline import lower


def lowered(name: str) -> onnx.ModelProto:
    return lower(WRITERS["ort-u8s8"].write(name, networks.images())).model


@pytest.mark.e2e
@pytest.mark.parametrize("name", sorted(networks.NETWORKS))
def test_a_card_returns_the_integers_of_onnxruntime(name, tmp_path):
    model = lowered(name)
    runner = ReferenceRunner(model)
    rng = np.random.default_rng(0)
    inputs = {
        key: rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, dtype, endpoint=True)
        for key, (shape, dtype) in runner.inputs.items()
    }
    program = emulated(plan_for_card(model), tmp_path, 1, SETTINGS[1], "sm_87")
    difference = total_difference(compare_integers(runner.run(inputs), program.run(inputs)))
    assert difference.count > 0 and difference.differing == 0
