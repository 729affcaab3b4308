"""Compiled programs against onnxruntime: zero differing integers; what a program file holds."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper
from small_models import ModelWriter, random_image, reference, runnable_targets, tiny_network

from aqd_deploy.compiler import compile_model
from aqd_deploy.errors import (
    ModelFileError,
    ProgramError,
    ShapeError,
    StorageError,
    TargetError,
    UnsupportedModelError,
)
from aqd_deploy.integer.reference import ReferenceRunner
from aqd_deploy.runtime import Program, read_manifest
from aqd_deploy.runtime.container import append_manifest, read_container
from aqd_deploy.runtime.program import check_runnable
from aqd_deploy.targets import Cpu

RUN_ALONE = """
import sys, numpy as np
from aqd_deploy.runtime import Program
program = Program.load(sys.argv[1])
np.savez(sys.argv[3], **program.run(dict(np.load(sys.argv[2]))))
assert "tvm" not in sys.modules and "torch" not in sys.modules, "the compiler or torch was imported"
"""


def assert_same(model, program: Program, seed: int = 0) -> None:
    inputs = random_image(model, seed)
    expected = reference(model, inputs)
    got = program.run(inputs)
    assert list(got) == list(expected)
    for name, value in expected.items():
        assert got[name].dtype == value.dtype
        np.testing.assert_array_equal(got[name], value, err_msg=name)
    assert_same_inside(model, program, inputs)


def assert_same_inside(model, program: Program, inputs) -> None:
    """What kernels write on the way, where it has a name in the integer file."""
    expected = ReferenceRunner(model, threads=1, with_intermediates=True).run(inputs)
    found = program.intermediates(inputs)
    assert {output.name for output in model.graph.output} <= found.keys()
    for name in found.keys() & expected.keys():
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


@pytest.mark.parametrize("target", runnable_targets())
def test_tiny_network_is_exact(target, tmp_path):
    model = tiny_network()
    compile_model(model, tmp_path / "p.so", target=target)
    program = Program.load(tmp_path / "p.so")
    for seed in range(3):
        assert_same(model, program, seed)


def test_a_manifest_of_another_image_is_refused(tmp_path):
    model = tiny_network()
    name, shape = model.graph.input[0].name, model.graph.input[0].type.tensor_type.shape
    preprocessing = {"input": name, "height": shape.dim[2].dim_value + 1, "width": shape.dim[3].dim_value}
    manifest = {"preprocessing": {**preprocessing, "color": "BGR", "pad_value": [0, 0, 0]}}
    helper.set_model_props(model, {"aqd.manifest": json.dumps(manifest)})
    with pytest.raises(ModelFileError, match=r"another network.*preprocessing"):
        compile_model(model, tmp_path / "p.so")
    assert not list(tmp_path.iterdir())


def test_levels_that_lie_in_their_stack(tmp_path):
    """Maps of 64-byte pixels are written into the stack at once; one of them has another reader."""
    w = ModelWriter()
    image = w.image("image", 16, 9, 7)
    levels = [w.requantize(w.conv(image, w.weight(64, 16, 3), pads=[1, 1, 1, 1]), 64)]
    for stride in (2, 3):
        down = w.conv(levels[-1], w.weight(64, 64, 3), strides=[stride] * 2, pads=[1, 1, 1, 1])
        levels.append(w.requantize(w.relu(down), 64))
    for channels in (64, 20):
        shared = w.weight(channels, 64, 3)
        heads = [w.conv(level, shared, pads=[1, 1, 1, 1]) for level in levels]
        for head in heads[:2]:
            w.output(w.bias(head, channels))
        w.output(w.requantize(heads[2], channels), dtype=TensorProto.UINT8)
    model = w.model()
    report = compile_model(model, tmp_path / "p.so", target="x86-64-v2", threads=2)
    operations = [layer["operation"] for layer in report.manifest["program"]["layers"]]
    assert "stack" not in operations
    assert operations.count("conv") == 3 + 2 * 2
    program = Program.load(tmp_path / "p.so")
    assert_same(model, program)
    assert set(levels) <= program.intermediates(random_image(model)).keys()


def test_constants_beyond_int32(tmp_path):
    """An int64 constant must not become int32 on its way through Relax."""
    w = ModelWriter()
    image = w.image("image", 1, 1, 4)
    x = w.conv(image, w.constant(np.full((2, 1, 1, 1), 127, np.int8)))
    c = w.per_channel(np.array([(1 << 31) - 1, -(1 << 31) + 1]), np.int64)
    b = w.per_channel(np.array([(1 << 50) + 3, (1 << 48) - 5]), np.int64)
    d = w.per_channel(np.array([20, 31]), np.uint64)
    w.output(w._dialect("MultiplyShift", [x, c, b, d]))
    model = w.model()
    compile_model(model, tmp_path / "p.so", target="x86-64-v2")
    assert_same(model, Program.load(tmp_path / "p.so"))


def test_run_in_a_new_process_without_compiler_or_torch(tiny_program, tmp_path):
    report, model = tiny_program
    inputs = random_image(model)
    np.savez(tmp_path / "x.npz", **inputs)
    command = [sys.executable, "-c", RUN_ALONE, report.path, tmp_path / "x.npz", tmp_path / "y.npz"]
    subprocess.run([str(part) for part in command], check=True)
    got = np.load(tmp_path / "y.npz")
    for name, value in reference(model, inputs).items():
        np.testing.assert_array_equal(got[name], value)


def test_manifest(tiny_program):
    report, model = tiny_program
    manifest = read_manifest(report.path)
    assert manifest == json.loads(json.dumps(report.manifest))
    assert manifest["name"] == "tiny"
    program = manifest["program"]
    assert program["inputs"] == [{"name": "image", "shape": [1, 3, 17, 20], "dtype": "uint8"}]
    assert [output["name"] for output in program["outputs"]] == [o.name for o in model.graph.output]
    assert program["target"]["kernels"] == "portable"
    digest = hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
    assert program["sha256"]["integer_model"] == digest
    operations = {"conv", "maxpool", "pointwise", "concat", "stack", "to_nhwc", "to_nchw"}
    assert {layer["operation"] for layer in program["layers"]} == operations
    assert all(layer["kernel"] and layer["why"] for layer in program["layers"])
    memory = program["memory"]
    assert 0 < memory["lower_bound_bytes"] <= memory["bytes"] <= 1.1 * memory["lower_bound_bytes"]
    assert memory["bytes"] == memory["arena_bytes"] + memory["output_bytes"]
    assert memory["output_bytes"] == sum(4 * np.prod(o["shape"]) for o in program["outputs"][:3]) + np.prod(
        program["outputs"][3]["shape"]
    )
    assert memory["scratch_bytes"] > 0
    assert "compile_seconds" not in program
    assert set(report.seconds) == {
        "plan",
        "import_compiler",
        "kernels",
        "relax",
        "codegen",
        "link",
    }


def test_weights_take_their_bits_and_a_shared_one_is_stored_once(tmp_path):
    w = ModelWriter()
    image = w.image("image", 16, 12, 12)
    shared = w.weight(64, 16, 3, bits=2)
    for stride in (1, 2, 3):
        w.output(w.bias(w.conv(image, shared, strides=[stride] * 2), 64))
    report = compile_model(w.model(), tmp_path / "p.so", target="x86-64-v2")
    count = 64 * 16 * 9
    assert report.manifest["program"]["weights"] == {
        "by_bits": {"2": {"tensors": 1, "weights": count, "bytes": count // 4}},
        "expanded_bytes": count,
    }


def test_wrong_inputs(tiny_program):
    program = Program.load(tiny_program[0].path)
    good = program.random_inputs()["image"]
    with pytest.raises(ShapeError, match="input image is missing"):
        program.run({})
    with pytest.raises(ShapeError, match="has no input picture; valid: image"):
        program.run({"image": good, "picture": good})
    with pytest.raises(ShapeError, match=r"got float32 \[1, 3, 17, 20\]; valid: uint8 \[1, 3, 17, 20\]"):
        program.run({"image": good.astype(np.float32)})
    with pytest.raises(ShapeError, match=r"got uint8 \[3, 17, 20\]"):
        program.run({"image": good[0]})


def test_views_and_read_only_arrays_are_accepted(tiny_program):
    report, _ = tiny_program
    program = Program.load(report.path)
    image = program.random_inputs()["image"]
    expected = program.run({"image": image})
    wide = np.zeros((1, 3, 17, 41), np.uint8)
    wide[..., 1::2] = image
    image.flags.writeable = False
    for view in (image, wide[..., 1::2]):
        for name, value in program.run({"image": view}).items():
            np.testing.assert_array_equal(value, expected[name])


def test_results_survive_the_next_run(tiny_program):
    program = Program.load(tiny_program[0].path)
    first = program.run(program.random_inputs(1))
    kept = {name: value.copy() for name, value in first.items()}
    program.run(program.random_inputs(2))
    for name, value in kept.items():
        np.testing.assert_array_equal(first[name], value)


def test_threads_do_not_change_the_integers(tiny_program):
    report, _ = tiny_program
    one, two = Program.load(report.path, threads=1), Program.load(report.path, threads=2)
    for name, value in one.run(one.random_inputs()).items():
        np.testing.assert_array_equal(value, two.run(one.random_inputs())[name])
    with pytest.raises(ProgramError, match="threads must be at least 1"):
        Program.load(report.path, threads=0)


def test_time_measures_each_repeat(tiny_program):
    seconds = Program.load(tiny_program[0].path).time(repeats=4, warmup=1)
    assert len(seconds) == 4
    assert all(0 < second < 10 for second in seconds)


def test_another_cpu_is_refused_before_loading(tiny_program):
    container = read_container(tiny_program[0].path)
    with pytest.raises(ProgramError, match=r"another CPU than this one: Old CPU lacks popcnt, ssse3"):
        features = frozenset(container.manifest["program"]["target"]["features"]) - {"popcnt", "ssse3"}
        check_runnable(container, Cpu("x86_64", "Old CPU", features, 1))
    with pytest.raises(ProgramError, match="got a program for x86_64; valid: aarch64"):
        check_runnable(container, Cpu("aarch64", "Board", frozenset(), 1))


def test_what_this_process_may_not_use_is_refused_with_the_reason(tiny_program):
    container = read_container(tiny_program[0].path)
    described = container.manifest["program"]["target"]
    here = Cpu("x86_64", "CPU", frozenset(described["features"]), 1, withheld="AMX: the kernel refused")
    described["features"] = [*described["features"], "amx_int8", "amx_tile"]
    with pytest.raises(ProgramError, match=r"may not use, AMX: the kernel refused; .* --target cascadelake"):
        check_runnable(container, here)
    with pytest.raises(ProgramError, match=r"CPU lacks amx_int8, amx_tile;.* --target host"):
        check_runnable(container, replace(here, withheld=""))
    described["features"].append("no_such_feature")
    with pytest.raises(ProgramError, match="CPU lacks amx_int8, amx_tile, no_such_feature;"):
        check_runnable(container, here)


def test_another_tvm_is_refused_before_loading(tiny_program):
    container = read_container(tiny_program[0].path)
    container.manifest["program"]["tvm_version"] = "0.1.0"
    with pytest.raises(ProgramError, match=r"another version; got TVM 0\.1\.0"):
        check_runnable(container)


def test_target_string_takes_its_features_from_llvm(tmp_path):
    target = "llvm -mcpu=haswell"
    program = compile_model(tiny_network(), tmp_path / "p.so", target=target).manifest["program"]
    assert program["target"]["kernels"] == "avx2"
    assert {"avx2", "fma", "bmi2", "sse4_2"} <= set(program["target"]["features"])
    assert not {"avx512f", "avx512_vnni"} & set(program["target"]["features"])
    with pytest.raises(
        TargetError, match=r"LLVM does not know the CPU of .*; got .hazwell.; valid: nearest .*haswell"
    ):
        compile_model(tiny_network(), tmp_path / "q.so", target="llvm -mcpu=hazwell")


def test_a_relative_path_is_loaded_from_the_working_folder(tiny_program, monkeypatch):
    report, _ = tiny_program
    monkeypatch.chdir(report.path.parent)
    assert Program.load(report.path.name).outputs


def test_a_library_that_cannot_be_loaded(tiny_program, tmp_path):
    """Its manifest is whole and says that it is ours, but the linker refuses it."""
    path = tmp_path / "p.so"
    path.write_bytes(b"\x7fELF" + bytes(200))
    append_manifest(path, read_manifest(tiny_program[0].path))
    with pytest.raises(ProgramError, match="cannot load the program"):
        Program.load(path)


def test_damaged_program_is_refused_before_loading(tiny_program, tmp_path):
    data = bytearray(tiny_program[0].path.read_bytes())
    data[5000] ^= 255
    (tmp_path / "bad.so").write_bytes(data)
    with pytest.raises(ProgramError, match="truncated or damaged"):
        Program.load(tmp_path / "bad.so")


def test_tvm_that_cannot_write_its_objects(tiny_program, tmp_path, monkeypatch):
    """TVM's own error of a full disk becomes ours, about the place of the objects; the old program stays."""

    def fail(*_, **__):
        raise RuntimeError("Traceback\nNo space left on device")

    (tmp_path / "p.so").write_text("old")
    monkeypatch.setattr("tvm.runtime.Executable.export_library", fail)
    with pytest.raises(StorageError, match=r"cannot write temporary files; got .*: No space left on device"):
        compile_model(tiny_program[1], tmp_path / "p.so", target="x86-64-v2")
    assert [(f.name, f.read_text()) for f in tmp_path.iterdir()] == [("p.so", "old")]


def test_a_failed_compilation_leaves_nothing(tmp_path):
    w = ModelWriter()
    image = w.image("image", 3, 4, 4)
    w.output(w._standard("Softmax", [w.conv(image, w.weight(2, 3, 1))]), dtype=TensorProto.FLOAT)
    with pytest.raises(UnsupportedModelError):
        compile_model(w.model(), tmp_path / "p.so")
    with pytest.raises(TargetError):
        compile_model(tiny_network(), tmp_path / "p.so", target="cascadlake")
    with pytest.raises(ProgramError, match="folder of the output cannot be made"):
        compile_model(tiny_network(), Path("/dev/null/none/p.so"), target="x86-64-v2")
    with pytest.raises(ProgramError, match=r"must end in \.so; got .*p\.bin; valid: p\.so"):
        compile_model(tiny_network(), tmp_path / "p.bin", target="x86-64-v2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("signed_bits", [8, 7])
def test_weights_in_rice_codes(signed_bits, tmp_path):
    """Two layers of crowded weights: their codes are expanded before they are unpacked."""
    w = ModelWriter()
    rng = np.random.default_rng(signed_bits)
    limit = (1 << (signed_bits - 1)) - 1
    x = w.image("image", 16, 6, 5)
    for channels, kernel in ((96, 5), (64, 3)):
        noise = np.round(rng.normal(0, limit / 5, (channels, 16 if kernel == 5 else 96, kernel, kernel)))
        weight = w.constant(np.clip(noise, -limit - 1, limit).astype(np.int8))
        x = w.conv(x, weight, pads=[1, 1, 1, 1])
        if kernel == 5:
            x = w.requantize(w.relu(x), channels)
    w.output(x)
    model = w.model()
    report = compile_model(model, tmp_path / "p.so", target="x86-64-v2")
    (entry,) = report.manifest["program"]["weights"]["by_bits"].values()
    assert entry["bytes"] < entry["weights"] * signed_bits / 8 * 15 / 16
    assert_same(model, Program.load(tmp_path / "p.so"))
