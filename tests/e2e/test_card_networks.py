"""Whole detectors at a quarter of their width, compiled for a card and emulated: no integer differs."""

import numpy as np
import pytest
from card_emulation import SETTINGS, emulated
from needing import ROOT

from aqd_deploy.compiler.planning import plan_for_card
from aqd_deploy.evaluation.compare import compare_integers, total_difference
from aqd_deploy.frontends.random_network import random_detector, textures
from aqd_deploy.frontends.torch_qdq import export_qdq
from aqd_deploy.integer.reference import ReferenceRunner
from aqd_deploy.passes.pipeline import lower
from aqd_deploy.qat.checkpoint import load_checkpoint
from aqd_deploy.qat.config import parse_architecture

SIZE = 64


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("name", "bits", "card"),
    [
        ("fcos_r18", 2, "sm_87"),
        ("fcos_r18", 3, "sm_90a"),
        ("retinanet_r18", 4, "sm_90a"),
        ("retinanet_r18", 8, "sm_87"),
        *(
            pytest.param(*case, marks=pytest.mark.matrix)
            for case in [
                ("fcos_r18", 2, "sm_90a"),
                ("fcos_r18", 3, "sm_87"),
                ("retinanet_r18", 4, "sm_87"),
                ("retinanet_r18", 8, "sm_90a"),
            ]
        ),
    ],
)
def test_a_network_on_a_card_equals_the_reference(name, bits, card, tmp_path):
    config = parse_architecture(
        name, bits=bits, image_height=SIZE, image_width=SIZE, classes=5, width=0.25, head_depth=2
    )
    model = lower(export_qdq(random_detector(config, seed=bits))).model
    program = emulated(plan_for_card(model), tmp_path, 1, SETTINGS[1], card)
    image = textures(1, SIZE, SIZE, seed=7)
    expected = ReferenceRunner(model).run({"image": image})
    difference = total_difference(compare_integers(expected, program.run({"image": image})))
    assert difference.count > 0 and difference.differing == 0
    assert min(np.ptp(value) for key, value in expected.items() if key.endswith("p3")) > 0


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["fcos_r18_digits_4bit", "retinanet_r18_digits_4bit"])
def test_a_shipped_detector_on_a_card_equals_the_reference(name, tmp_path):
    checkpoint = load_checkpoint(ROOT / "examples" / "digits" / "checkpoints" / f"{name}.pt")
    model = lower(export_qdq(checkpoint)).model
    reference = ReferenceRunner(model)
    pixels = next(iter(reference.inputs.values()))[0]
    image = textures(1, pixels[2], pixels[3], seed=7)
    program = emulated(plan_for_card(model), tmp_path, 1, SETTINGS[1], "sm_87")
    expected = reference.run({"image": image})
    difference = total_difference(compare_integers(expected, program.run({"image": image})))
    assert difference.count > 0 and difference.differing == 0
