"""Programs of the writers' networks, here and on emulated boards: not one integer differs from onnxruntime.

The quick cases run always; `pytest -m matrix tests/writers` takes every writer's file of every network.
"""

from pathlib import Path

import networks
import numpy as np
import onnx
import pytest
from writers import WRITERS

from aqd_deploy.compiler import compile_model
from aqd_deploy.devices import open_device
from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.evaluation.compare import compare_integers, total_difference
from aqd_deploy.integer.reference import ReferenceRunner
from aqd_deploy.passes.pipeline import lower

BOARDS = ("raspberrypi-5", "raspberrypi-4")


def _differing(model: onnx.ModelProto, target: str, device: str, folder: Path) -> int:
    """Of the program's integers for random codes, how many are not the reference's."""
    reference = ReferenceRunner(model)
    rng = np.random.default_rng(0)
    inputs = {
        name: rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, dtype, endpoint=True)
        for name, (shape, dtype) in reference.inputs.items()
    }
    compile_model(model, folder / "program.so", target=target, threads=2)
    found = open_device(device).run(folder / "program.so", inputs, threads=2)
    difference = total_difference(compare_integers(reference.run(inputs), found))
    assert difference.count > 0
    return difference.differing


def _quick(name: str) -> onnx.ModelProto:
    return lower(WRITERS["ort-u8s8"].write(name, networks.images())).model


@pytest.mark.e2e
@pytest.mark.parametrize("name", sorted(networks.NETWORKS))
def test_this_machine_returns_the_integers_of_onnxruntime(name, tmp_path):
    assert _differing(_quick(name), "host", "local", tmp_path) == 0


@pytest.mark.e2e
@pytest.mark.needs_qemu
@pytest.mark.needs_cross
@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize("name", sorted(networks.NETWORKS))
def test_a_board_returns_the_integers_of_onnxruntime(name, board, tmp_path):
    assert _differing(_quick(name), board, "qemu", tmp_path) == 0


@pytest.mark.matrix
@pytest.mark.parametrize("name", sorted(networks.NETWORKS))
def test_every_file_of_every_writer(written, writer, name, tmp_path):
    try:
        model = lower(written(name)).model
    except UnsupportedModelError as error:
        pytest.skip(error.what)
    assert _differing(model, "host", "local", tmp_path) == 0
