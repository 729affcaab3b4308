"""The inner loops of an estimate: found in the code for the profile's CPU, simulated, and told where not."""

from dataclasses import replace

import numpy as np
import pytest
from needs import need
from onnx import TensorProto, helper, numpy_helper, save

from aqd_deploy import targets
from aqd_deploy.bench import inner_loops
from aqd_deploy.bench.estimate import estimate
from aqd_deploy.bench.estimate_view import estimate_view
from aqd_deploy.integer import dialect
from aqd_deploy.kernels.contract.kernel import InnerLoop


@pytest.fixture
def model(tmp_path):
    """A 1x1 convolution and one of 3x3, of which each instruction set has vector kernels."""
    rng = np.random.default_rng(0)
    weights = [rng.integers(-3, 4, shape, np.int8) for shape in ((48, 32, 1, 1), (48, 32, 3, 3))]
    nodes = [
        dialect.standard_node("ConvInteger", ["image", f"w{i}"], f"out{i}", pads=[pad] * 4)
        for i, pad in enumerate((0, 1))
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 32, 12, 12])
    outs = [helper.make_tensor_value_info(f"out{i}", TensorProto.INT32, None) for i in range(2)]
    tensors = [numpy_helper.from_array(weight, f"w{i}") for i, weight in enumerate(weights)]
    path = tmp_path / "m.onnx"
    save(dialect.make_model(nodes, [image], outs, tensors), path)
    return path


# The most products a cycle that the multipliers of the CPU do.
@pytest.mark.parametrize(
    ("name", "most"), [("raspberrypi-5", 32), ("raspberrypi-4", 8), ("cascadelake", 128)]
)
def test_cycles_for_the_cpu_of_the_profile(model, name, most):
    need("llvm-mca")
    target = targets.get(name)
    if name == "cascadelake":
        target = replace(target, cpu=name, clock_ghz=2.5)
    document = estimate(model, target, threads=[1, 2])
    assert document["inner_loops"] == {"cpu": target.cpu, "note": ""}
    one, two = (entry["layers"] for entry in document["estimates"])
    convolutions = [
        (first, second) for first, second in zip(one, two, strict=True) if first["multiplications"]
    ]
    assert len(convolutions) == 2
    for first, second in convolutions:
        rate = first["multiplications"] / first["inner_loop_cycles"]
        assert most / 8 < rate <= 1.001 * most
        assert second["inner_loop_cycles"] == first["inner_loop_cycles"]
        assert second["inner_loop_ms"] == pytest.approx(first["inner_loop_ms"] / 2)
    text = estimate_view(document)
    assert f"inner loops simulated by llvm-mca for {target.cpu}, nothing was measured" in text
    cycles = sum(first["inner_loop_cycles"] for first, _ in convolutions)
    assert f"simulated: {cycles / 1e6:.1f} M cycles" in text
    assert max(map(len, text.splitlines())) <= 80


def test_tiles_are_counted_whole_and_not_simulated(model):
    need("llvm-mca")
    target = replace(targets.get("sapphirerapids"), cpu="sapphirerapids")
    document = estimate(model, target, threads=[2])
    assert "have no entry" in document["inner_loops"]["note"]
    (entry,) = document["estimates"]
    layers = [layer for layer in entry["layers"] if layer["kernel"].startswith("amx")]
    assert layers and all(layer["inner_loop"] is None for layer in layers)
    assert all(layer["multiplications"] % 16_384 == 0 for layer in layers)
    assert entry["multiplication_cycles"] == pytest.approx(entry["multiplications"] / 2048, abs=1)
    cycles = f"which take {entry['multiplication_cycles'] / 1e6:.2f} M cycles at the peak, and"
    assert cycles in " ".join(estimate_view(document).split())


def test_without_the_simulator_its_command_is_told(model, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    document = estimate(model, targets.get("raspberrypi-5"))
    assert document["inner_loops"]["note"] == "llvm-mca is not installed; try: apt-get install llvm"
    assert all(layer["inner_loop"] is None for layer in document["estimates"][0]["layers"])
    assert "inner loops: llvm-mca is not installed; try: apt-get install llvm" in estimate_view(document)


@pytest.mark.parametrize("name", ["aarch64", "armv7-neon", "x86-64-v4", "cascadelake"])
def test_a_profile_of_many_cpus_gets_no_cycles(name):
    assert "names no core whose pipelines are known" in inner_loops.obstacle(targets.get(name))


def test_what_the_simulator_does_not_know(monkeypatch):
    need("llvm-mca")
    board = targets.get("raspberrypi-5")
    with pytest.raises(inner_loops.ScheduleError, match="does not know the CPU cortex-a999"):
        inner_loops.simulated_cycles(InnerLoop(("\tnop",), 1), replace(board, cpu="cortex-a999"))
    with pytest.raises(inner_loops.ScheduleError, match=r"llvm-mca: .*error"):
        inner_loops.simulated_cycles(InnerLoop(("\tno such instruction",), 1), board)
