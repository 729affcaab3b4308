"""The static estimate: its arithmetic, what a profile lacks, and that it is never taken for a measurement."""

import json
from dataclasses import replace

import pytest
from onnx import save
from small_models import every_operation

from aqd_deploy import targets
from aqd_deploy.bench.estimate import WHAT, estimate, layer_estimate, layer_work
from aqd_deploy.bench.estimate_view import estimate_view
from aqd_deploy.cli.main import invoke
from aqd_deploy.errors import ProgramError
from aqd_deploy.runtime.container import append_manifest

PI_4 = targets.get("raspberrypi-4")
CONV = {
    "name": "stem", "operation": "conv", "kernel": "winograd", "why": "", "output": [10, 10, 8],
    "weight_bits": 4, "macs": 2_400_000, "executed_macs": 1_200_000,
    "weight_bytes": 6_000, "input_bytes": 4_000, "output_bytes": 2_000,
}  # fmt: skip
COPY = {**CONV, "name": "copy", "operation": "concat", "kernel": "loops", "macs": 0, "executed_macs": 0,
        "weight_bytes": 0, "input_bytes": 640_000, "output_bytes": 640_000}  # fmt: skip

PROGRAM = {
    "tvm_version": "0", "aqd_deploy_version": "0.1.0", "inputs": [], "outputs": [],
    "target": {"name": "raspberrypi-5", "architecture": "aarch64", "features": []},
}  # fmt: skip


def on_cores(layer, cores, target=PI_4, loop=None):
    return layer_estimate(layer_work(layer, target, loop), target, cores)


@pytest.fixture
def program(tmp_path):
    """A file with a program's manifest: two layers, of which only the table is read."""
    path = tmp_path / "m.so"
    path.write_bytes(b"\x7fELF of no machine")
    append_manifest(path, {"name": "x", "program": {**PROGRAM, "layers": [CONV, COPY]}})
    return path


def test_a_layer_bound_by_compute():
    entry = on_cores(CONV, 2)
    assert entry["multiplications"] == 1_200_000 and entry["bytes"] == 12_000
    assert entry["multiplications_per_byte"] == 100
    # 1.5 GHz, 8 a cycle, 2 cores: 24 G multiplications a second; 12.8 GB a second.
    assert entry["compute_ms"] == pytest.approx(0.05) and entry["memory_ms"] == pytest.approx(0.0009375)
    assert (entry["bound"], entry["ms"]) == ("compute", entry["compute_ms"])


def test_a_layer_bound_by_memory():
    entry = on_cores(COPY, 1)
    assert (entry["bound"], entry["ms"], entry["compute_ms"]) == ("memory", pytest.approx(0.1), 0)


def test_cycles_of_the_inner_loop_stand_beside_and_change_nothing():
    loop = {"cycles": 160.0, "products": 640, "cycles_per_product": 0.25}
    entry = on_cores(CONV, 2, loop=loop)
    # A quarter of a cycle for each of 1.2 M products, on two cores of 1.5 GHz.
    assert entry["inner_loop_cycles"] == 300_000 and entry["inner_loop_ms"] == pytest.approx(0.1)
    assert entry["ms"] == on_cores(CONV, 2)["ms"]
    assert on_cores(CONV, 2)["inner_loop_cycles"] is None


def test_the_network_is_the_sum_and_no_more_cores_are_used_than_there_are(program):
    document = estimate(program, PI_4, threads=[1, 8])
    one, eight = document["estimates"]
    assert one["total_ms"] == pytest.approx(0.1 + 0.1) and one["cores_used"] == 1
    assert eight["total_ms"] == pytest.approx(0.025 + 0.1) and eight["cores_used"] == 4
    assert (one["compute_bound_layers"], one["memory_bound_layers"]) == (1, 1)
    assert document["what"] == WHAT and document["compiled_for"] == "raspberrypi-5"
    assert estimate(program, PI_4)["estimates"][0]["threads"] == 4
    # 1.2 M at eight a cycle.
    assert (one["multiplication_cycles"], eight["multiplication_cycles"]) == (150_000, 37_500)
    unknown = estimate(program, replace(PI_4, int8_macs_per_cycle=None))
    assert unknown["estimates"][0]["multiplication_cycles"] is None


def test_what_a_profile_lacks_is_named_and_nothing_is_guessed(program):
    document = estimate(program, replace(PI_4, bandwidth_gb_s=None))
    assert document["missing_keys"] == ["bandwidth_gb_s"]
    entry = document["estimates"][0]
    assert entry["total_ms"] is None
    assert all(layer["ms"] is layer["bound"] is layer["memory_ms"] is None for layer in entry["layers"])
    assert entry["layers"][0]["compute_ms"] > 0
    text = estimate_view(document)
    assert "name the program's model in its place" in " ".join(text.split())
    assert "raspberrypi-4 lacks bandwidth_gb_s" in text and "unknown for" in text


def test_the_view_says_what_it_is(program, capsys):
    assert invoke(["bench", str(program), "--estimate", "rpi4", "--threads", "1"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("ESTIMATE for raspberrypi-4, nothing was measured")
    words = " ".join(text.split())
    assert "for raspberrypi-5" in words and "estimated, 1 thread on 1 core: 0.200 ms" in words
    assert max(map(len, text.splitlines())) <= 80


def test_json(program, capsys):
    assert invoke(["bench", str(program), "--estimate", "rpi4", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["what"] == WHAT and "measured" not in document and "environment" not in document


@pytest.mark.parametrize(
    "option", [["--layers"], ["--max-ms", "3"], ["--against", "openvino"], ["--rounds", "2"]]
)
def test_measuring_options_are_refused(program, option, capsys):
    assert invoke(["bench", str(program), "--estimate", "rpi4", *option]) == 2
    assert f"--estimate measures nothing: without {option[0]}" in capsys.readouterr().err


_SIZES = {"name": "a", "macs": 3, "weight_bytes": 3, "input_bytes": 4, "output_bytes": 5, "output": [1]}


@pytest.mark.parametrize("layers", [
    [], *([_SIZES, {k: v for k, v in _SIZES.items() if k != key}] for key in list(_SIZES)[2:]),
])  # fmt: skip
def test_a_program_without_the_bytes_of_its_layers(tmp_path, layers):
    path = tmp_path / "old.so"
    path.write_bytes(b"\x7fELF of no machine")
    append_manifest(path, {"program": {**PROGRAM, "layers": layers}})
    with pytest.raises(ProgramError, match="does not tell the bytes of its layers"):
        estimate(path, PI_4)


def test_a_model_gets_the_table_that_compiling_it_would_write(tmp_path, monkeypatch):
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    from aqd_deploy.bench import inner_loops
    from aqd_deploy.compiler import compile_model
    from aqd_deploy.integer import dialect

    weight = numpy_helper.from_array(np.ones((16, 8, 3, 3), np.int8), "w")
    node = dialect.standard_node("ConvInteger", ["image", "w"], "out", pads=[1, 1, 1, 1])
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 8, 12, 12])
    out = helper.make_tensor_value_info("out", TensorProto.INT32, None)
    model = dialect.make_model([node], [image], [out], [weight])
    save(model, tmp_path / "m.onnx")
    target = targets.get("host")
    report = compile_model(model, tmp_path / "m.so", target=target, threads=1, tuned="none")
    of_program = estimate(tmp_path / "m.so", target, threads=[1])["estimates"]
    monkeypatch.setattr(inner_loops, "obstacle", lambda target: "not in this test")
    of_model = estimate(tmp_path / "m.onnx", target, threads=[1])
    assert of_model["inner_loops"]["note"] == "not in this test"
    assert of_model["estimates"] == json.loads(json.dumps(of_program))
    layer = next(entry for entry in report.manifest["program"]["layers"] if entry["operation"] == "conv")
    assert layer["input_bytes"] == 8 * 12 * 12 and layer["output_bytes"] == 16 * 12 * 12 * 4
    assert layer["weight_bytes"] >= 16 * 8 * 3 * 3


def test_an_estimate_for_a_card(tmp_path):
    save(every_operation(), tmp_path / "m.onnx")
    found = estimate(tmp_path / "m.onnx", targets.get("jetson-orin-nano-gpu"))
    (entry,) = found["estimates"]
    # 8 multiprocessors at 0.625 GHz, 2048 a cycle each.
    first = next(layer for layer in entry["layers"] if layer["multiplications"])
    assert first["compute_ms"] == pytest.approx(first["multiplications"] / (8 * 0.625e6 * 2048))
    assert found["missing_keys"] == [] and entry["total_ms"] > 0
    assert {"patches", "gather", "sumpool"} <= {layer["kernel"] for layer in entry["layers"]}
    assert found["inner_loops"]["note"] == ""


@pytest.mark.parametrize("name", [name for name in targets.names()[1:] if targets.get(name).card])
def test_every_card_has_the_figures_of_an_estimate_and_their_sources(name):
    target = targets.get(name)
    for key in ("cores", "clock_ghz", "bandwidth_gb_s", "int8_macs_per_cycle"):
        assert getattr(target, key) and "data sheet" in target.sources[key]
