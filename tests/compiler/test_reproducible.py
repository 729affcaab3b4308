"""Two compilations of one model give the same bytes, wherever and whenever they run."""

import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from small_models import UINT8, ModelWriter, tiny_network

from aqd_deploy.compiler.planning import plan_model

COMPILE = """
import sys
from pathlib import Path
import onnx
from aqd_deploy.compiler import compile_model
source = Path(sys.argv[1])
compile_model(onnx.load(source), Path(sys.argv[2]), target=sys.argv[3], threads=2, source=source)
"""
ORDER = """
import sys
import onnx
from aqd_deploy.compiler.planning import plan_model
print(*(name for op in plan_model(onnx.load(sys.argv[1])).operations for name in getattr(op, "outputs", ())))
"""


def run(folder: Path, seed: int, script: str, *arguments: object) -> str:
    """What `script` prints in a process of its own, with its own order of hashes and temporary folder."""
    environment = {**os.environ, "PYTHONHASHSEED": str(seed), "TMPDIR": str(folder)}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(
        command, cwd=folder, env=environment, check=True, capture_output=True, text=True
    ).stdout


def outputs_of_one_kernel() -> onnx.ModelProto:
    """Convolutions whose accumulators and codes are both outputs of the network."""
    w = ModelWriter(seed=2)
    image = w.image("image", 3, 8, 8)
    for _ in range(6):
        sums = w.bias(w.conv(image, w.weight(8, 3, 1)), 8)
        w.output(sums)
        w.output(w.requantize(sums, 8), dtype=UINT8)
    return w.model()


@pytest.mark.parametrize("target", ["x86-64-v2", "x86-64-v4"])
def test_two_compilations_give_the_same_bytes(tmp_path, target):
    model = tmp_path / "m.onnx"
    onnx.save(tiny_network({"name": "tiny", "schema": 1}), model)
    programs = []
    for seed, folder in enumerate((tmp_path / "a", tmp_path / "b" / "a longer path"), 1):
        folder.mkdir(parents=True)
        run(folder, seed, COMPILE, model, folder / f"program{seed}.so", target)
        programs.append((folder / f"program{seed}.so").read_bytes())
    assert programs[0] == programs[1]


def test_the_order_of_operations_is_no_order_of_hashes(tmp_path):
    model = tmp_path / "m.onnx"
    onnx.save(outputs_of_one_kernel(), model)
    assert any(len(getattr(op, "outputs", ())) > 1 for op in plan_model(onnx.load(model)).operations)
    first, second = (run(tmp_path, seed, ORDER, model) for seed in (1, 2))
    assert first == second
