"""YOLOv2 and Tiny-YOLOv2 with random weights: not one integer differs between onnxruntime and the compiled
program, here and on emulated boards.

The quick cases run always. `pytest -m matrix tests/e2e/test_yolov2_networks.py` runs both at every bit width
on images of 416 x 416, and on every board; AQD_MATRIX_WIDTH sets the width multiplier (1 is the published
networks).
"""

import itertools
import os

import numpy as np
import pytest

from aqd_deploy.compiler import compile_model
from aqd_deploy.detection.textures import textures
from aqd_deploy.devices import open_device
from aqd_deploy.evaluation.compare import compare_integers, total_difference
from aqd_deploy.frontends.random_network import random_detector
from aqd_deploy.frontends.torch_qdq import export_qdq
from aqd_deploy.integer.reference import ReferenceRunner
from aqd_deploy.passes.pipeline import lower
from aqd_deploy.qat.config import parse_architecture
from aqd_deploy.runtime import Program

NETWORKS, BITS = ("yolov2_tiny", "yolov2"), (2, 3, 4, 8)
SMALL, LARGE = 64, 416
THIN = 0.02
QUICK = (("yolov2_tiny", 3), ("yolov2", 4))
BOARDS = ("raspberrypi-5", "raspberrypi-4")
QUICK_BOARDS = (("raspberrypi-5", "yolov2", 4), ("raspberrypi-4", "yolov2_tiny", 8))


def lowered(name, bits, size, width):
    config = parse_architecture(name, bits=bits, image_height=size, image_width=size, classes=5, width=width)
    result = lower(export_qdq(random_detector(config, seed=bits)))
    assert result.report["float_tensors"] == 0
    return result.model


def noise(size):
    return np.random.default_rng(0).integers(0, 256, (1, 3, size, size), dtype=np.uint8)


def assert_same(expected, found):
    difference = total_difference(compare_integers(expected, found))
    assert difference.count > 0 and difference.differing == 0
    assert np.ptp(expected["map_p5"]) > 0


def assert_program_equals_reference(model, size, path):
    compile_model(model, path)
    program, reference = Program.load(path), ReferenceRunner(model)
    for image in (noise(size), textures(1, size, size, seed=7)):
        assert_same(reference.run({"image": image}), program.run({"image": image}))


@pytest.mark.e2e
@pytest.mark.parametrize(("name", "bits"), QUICK)
def test_a_small_program_equals_the_reference(name, bits, tmp_path):
    assert_program_equals_reference(lowered(name, bits, SMALL, THIN), SMALL, tmp_path / "program.so")


@pytest.mark.matrix
@pytest.mark.parametrize(("name", "bits"), itertools.product(NETWORKS, BITS))
def test_a_program_for_large_images_equals_the_reference(name, bits, tmp_path):
    width = float(os.environ.get("AQD_MATRIX_WIDTH", "0.25"))
    assert_program_equals_reference(lowered(name, bits, LARGE, width), LARGE, tmp_path / "program.so")


def board_case(board, name, bits):
    marks = () if (board, name, bits) in QUICK_BOARDS else (pytest.mark.matrix,)
    return pytest.param(board, name, bits, id=f"{board}-{name}-{bits}bit", marks=marks)


@pytest.mark.e2e
@pytest.mark.needs_qemu
@pytest.mark.needs_cross
@pytest.mark.parametrize(
    ("board", "name", "bits"), [board_case(*each) for each in itertools.product(BOARDS, NETWORKS, BITS)]
)
def test_a_board_returns_the_integers_of_onnxruntime(board, name, bits, tmp_path):
    model = lowered(name, bits, SMALL, THIN)
    compile_model(model, tmp_path / "program.so", target=board)
    image = {"image": noise(SMALL)}
    found = open_device("qemu").run(tmp_path / "program.so", image, threads=2)
    assert_same(ReferenceRunner(model).run(image), found)
