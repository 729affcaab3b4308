"""Whole detectors with random weights: not one integer differs between onnxruntime and the compiled program.

The quick cases run always. `pytest -m matrix tests/e2e` runs every detector, backbone and bit width;
AQD_MATRIX_WIDTH sets the width multiplier (1 is the published networks).
"""

import itertools
import os

import numpy as np
import pytest

from aqd_deploy.compiler import compile_model
from aqd_deploy.evaluation.compare import compare_integers, total_difference
from aqd_deploy.frontends.random_network import random_detector, textures
from aqd_deploy.frontends.torch_qdq import export_qdq
from aqd_deploy.integer.reference import ReferenceRunner
from aqd_deploy.passes.pipeline import lower
from aqd_deploy.qat.config import parse_architecture
from aqd_deploy.runtime import Program

SIZE = 64
QUICK = {("fcos_r18", 2), ("retinanet_r18", 4), ("fcos_r50", 3), ("retinanet_r34", 8)}


def case(detector: str, depth: int, bits: int):
    name = f"{detector}_r{depth}"
    marks = () if (name, bits) in QUICK else (pytest.mark.matrix,)
    return pytest.param(name, bits, id=f"{name}-{bits}bit", marks=marks)


CASES = [case(*each) for each in itertools.product(("fcos", "retinanet"), (18, 34, 50), (2, 3, 4, 8))]


@pytest.mark.e2e
@pytest.mark.parametrize(("name", "bits"), CASES)
def test_program_equals_reference(name, bits, tmp_path):
    width = float(os.environ.get("AQD_MATRIX_WIDTH", "0.25"))
    config = parse_architecture(
        name, bits=bits, image_height=SIZE, image_width=SIZE, classes=5, width=width, head_depth=2
    )
    lowered = lower(export_qdq(random_detector(config, seed=bits)))
    assert lowered.report["float_tensors"] == 0
    compile_model(lowered.model, tmp_path / "program.so")
    program = Program.load(tmp_path / "program.so")
    reference = ReferenceRunner(lowered.model)
    noise = np.random.default_rng(0).integers(0, 256, (1, 3, SIZE, SIZE), dtype=np.uint8)
    for image in (noise, textures(1, SIZE, SIZE, seed=7)):
        expected = reference.run({"image": image})
        difference = total_difference(compare_integers(expected, program.run({"image": image})))
        assert difference.count > 0
        assert difference.differing == 0
        assert min(np.ptp(value) for key, value in expected.items() if key.endswith("p3")) > 0
