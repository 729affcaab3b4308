"""Float networks that `quantize` has quantized, as programs: the same integers as the reference."""

from pathlib import Path

import numpy as np
import pytest

from aqd_deploy.compiler import compile_model
from aqd_deploy.detection.images import Preprocess, load_image
from aqd_deploy.evaluation.compare import compare_integers, total_difference
from aqd_deploy.frontends.torch_qdq import export_qdq
from aqd_deploy.integer.manifest import read_manifest
from aqd_deploy.integer.reference import ReferenceRunner
from aqd_deploy.passes.pipeline import lower
from aqd_deploy.qat.checkpoint import load_checkpoint
from aqd_deploy.quantization.calibration import calibration_of
from aqd_deploy.quantization.methods import METHODS
from aqd_deploy.quantization.pipeline import quantize
from aqd_deploy.quantization.recipe import Recipe, Steps
from aqd_deploy.runtime import Program

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "digits"
IMAGES = sorted((EXAMPLE / "images").glob("*.png"))

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="session")
def network():
    return export_qdq(load_checkpoint(EXAMPLE / "checkpoints" / "fcos_r18_digits_float.pt"))


def check(network, recipe, folder, count):
    """Every integer of the program is the reference's on the first images."""
    done = quantize(network, calibration_of(EXAMPLE / "images", network), recipe)
    lowered = lower(done.model)
    assert lowered.report["float_tensors"] == 0
    compile_model(lowered.model, folder / "m.so", target="host")
    program, reference = Program.load(folder / "m.so"), ReferenceRunner(lowered.model)
    preprocess = Preprocess.from_manifest(read_manifest(network))
    for path in IMAGES[:count]:
        inputs = {"image": preprocess(load_image(path))[0]}
        found = compare_integers(reference.run(inputs), program.run(inputs))
        assert total_difference(found).differing == 0
        assert any(np.ptp(value) > 0 for value in reference.run(inputs).values())


def test_four_bits(network, tmp_path):
    steps = Steps(equalise=True, bias_correction=True)
    check(network, Recipe(method="entropy", weight_bits=4, activation_bits=4, steps=steps), tmp_path, 4)


@pytest.mark.matrix
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [8, 6, 3, 2])
@pytest.mark.parametrize("method", [name for name in METHODS if name != "detptq"])
def test_every_method(network, method, bits, symmetric, tmp_path):
    recipe = Recipe(method=method, weight_bits=bits, activation_bits=bits, symmetric=symmetric)
    check(network, recipe, tmp_path, 8)
