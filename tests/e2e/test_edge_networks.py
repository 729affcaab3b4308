"""Whole detectors on emulated boards: compiled by device name, packaged, run under qemu. Not one integer
differs from onnxruntime.

The quick cases run always. `pytest -m matrix tests/e2e/test_edge_networks.py` runs both detectors at every
bit width on every board; AQD_MATRIX_WIDTH sets the width multiplier (1 is the published networks).
"""

import itertools
import os

import numpy as np
import pytest

from aqd_deploy.compiler import compile_model
from aqd_deploy.devices import open_device
from aqd_deploy.evaluation.compare import compare_integers, total_difference
from aqd_deploy.frontends.random_network import random_detector
from aqd_deploy.frontends.torch_qdq import export_qdq
from aqd_deploy.integer.reference import ReferenceRunner
from aqd_deploy.passes.pipeline import lower
from aqd_deploy.qat.config import parse_architecture

SIZE = 64
# With sdot; a Cortex-A72, on which qemu refuses sdot as the chip would; 32 bits.
BOARDS = ("raspberrypi-5", "raspberrypi-4", "armv7-neon")
QUICK = {
    ("raspberrypi-5", "fcos_r18", 4),
    ("raspberrypi-5", "retinanet_r18", 8),
    ("raspberrypi-4", "retinanet_r18", 2),
    ("armv7-neon", "fcos_r18", 4),
}


def case(board: str, name: str, bits: int):
    marks = () if (board, name, bits) in QUICK else (pytest.mark.matrix,)
    return pytest.param(board, name, bits, id=f"{board}-{name}-{bits}bit", marks=marks)


CASES = [case(*each) for each in itertools.product(BOARDS, ("fcos_r18", "retinanet_r18"), (2, 4, 8))]


@pytest.mark.e2e
@pytest.mark.needs_qemu
@pytest.mark.needs_cross
@pytest.mark.parametrize(("board", "name", "bits"), CASES)
def test_a_board_returns_the_integers_of_onnxruntime(board, name, bits, tmp_path):
    width = float(os.environ.get("AQD_MATRIX_WIDTH", "0.25"))
    config = parse_architecture(
        name, bits=bits, image_height=SIZE, image_width=SIZE, classes=5, width=width, head_depth=2
    )
    model = lower(export_qdq(random_detector(config, seed=bits))).model
    compile_model(model, tmp_path / "program.so", target=board)
    image = {"image": np.random.default_rng(0).integers(0, 256, (1, 3, SIZE, SIZE), dtype=np.uint8)}
    expected = ReferenceRunner(model).run(image)
    difference = total_difference(
        compare_integers(expected, open_device("qemu").run(tmp_path / "program.so", image, threads=2))
    )
    assert difference.count > 0
    assert difference.differing == 0
