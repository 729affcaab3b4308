"""Programs for cards, run by the emulation: zero differing integers against onnxruntime; and their files."""

import re
import subprocess
from dataclasses import dataclass

import numpy as np
import pytest
from card_emulation import SETTINGS, emulated
from needs import need_cuda_tool
from small_models import (
    every_operation,
    parallel_network,
    random_image,
    reference,
    tiny_network,
)

from aqd_deploy import targets
from aqd_deploy.compiler import compile_model
from aqd_deploy.compiler.launches import build_launches
from aqd_deploy.compiler.nvcc import CudaCompiler
from aqd_deploy.compiler.patches import Patches
from aqd_deploy.compiler.plan import OneInput, OneOutput, Plan, Rearrangement
from aqd_deploy.compiler.planning import plan_for_card
from aqd_deploy.errors import MissingExtraError, ProgramError, ShapeError, TargetError, UnsupportedModelError
from aqd_deploy.integer.ranges import Interval
from aqd_deploy.integer.types import TensorType
from aqd_deploy.kernels.cuda.backend import CudaBackend
from aqd_deploy.reporting.inspection import inspect_file
from aqd_deploy.reporting.inspection_view import inspection_view
from aqd_deploy.runtime import Program, read_container
from aqd_deploy.runtime.launches import read_launches

MODELS = {"tiny": tiny_network, "every operation": every_operation, "parallel": parallel_network}
# Registers that lie in memory between main loops.
SPILLED = 16
CARDS = sorted(name for name in targets.names()[1:] if targets.get(name).card)


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_a_program_gives_the_integers_of_onnxruntime(name, images, tmp_path):
    model = MODELS[name]()
    program = emulated(plan_for_card(model), tmp_path, images, SETTINGS[1])
    runs = [random_image(model, seed) for seed in range(images)]
    got = program.run({key: np.concatenate([run[key] for run in runs]) for key in runs[0]})
    for index, run in enumerate(runs):
        for key, want in reference(model, run).items():
            np.testing.assert_array_equal(got[key][index : index + 1], want, err_msg=f"{key}, {index}")


@dataclass(frozen=True)
class Twist(OneInput, OneOutput, Rearrangement):
    """An operation that nobody wrote a kernel for."""

    name: str
    input: str
    output: str


def test_an_image_with_few_channels_comes_as_patches():
    plan = plan_for_card(parallel_network())
    patches = next(op for op in plan.operations if isinstance(op, Patches))
    reader = next(op for op in plan.operations if patches.output in op.reads)
    assert (reader.spec.kernel, reader.spec.in_channels) == ((3, 1), 9)
    interval = patches.interval([Interval.uniform(3, 0, 255)])
    assert (interval.lo.min(), interval.hi.max(), len(interval.lo)) == (0, 255, 9)


def test_a_program_that_runs_twice_leaves_no_sums_behind(tmp_path):
    model = parallel_network()
    program = emulated(plan_for_card(model), tmp_path)
    first = program.run(random_image(model, 1))
    program.run(random_image(model, 2))
    again = program.run(random_image(model, 1))
    assert all((first[key] == again[key]).all() for key in first)
    assert program.time(2, 0) == [0.0, 0.0]


def test_an_operation_without_a_kernel_is_an_error():
    tensors = {name: TensorType(1, 1, 16, "uint8") for name in "xy"}
    plan = Plan([], [], [Twist("twist", "x", "y")], tensors, {})
    with pytest.raises(UnsupportedModelError, match=r"twist.*on a card.*Twist.*MaxPool"):
        build_launches(plan, CudaBackend("sm_80"), 1)


def test_more_elements_than_a_kernel_counts_are_refused():
    with pytest.raises(ShapeError, match=r"too many elements.*with 30000000 images; valid: .*fewer images"):
        build_launches(plan_for_card(tiny_network()), CudaBackend("sm_80"), 30_000_000)


@pytest.mark.needs_nvcc
@pytest.mark.parametrize("name", CARDS)
def test_every_card_gets_a_cubin_with_its_instructions(name, tmp_path):
    report = compile_model(parallel_network(), tmp_path / "p.so", target=name)
    container = read_container(tmp_path / "p.so")
    launches = read_launches(container)
    assert bytes(launches.code[:4]) == b"\x7fELF" and len(launches.run) >= 4
    section = report.manifest["program"]["launches"]
    told = {each["function"]: each for each in section["assembler"]}
    products = [f"k{index}" for index, code in enumerate(section["code"]) if code.startswith("conv_")]
    assert products and all(told[function]["spilled_bytes"] <= SPILLED for function in products)
    text = disassembled(bytes(launches.code), tmp_path)
    assert "IMMA.16832" in text or "IGMMA" in text
    assert "LDGSTS" in text


def disassembled(code: bytes, folder) -> str:
    """The machine code of a cubin as text."""
    tool = need_cuda_tool("nvdisasm")
    (folder / "k.cubin").write_bytes(code)
    command = [tool, "-c", "k.cubin"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


@pytest.mark.needs_nvcc
def test_the_same_model_gives_the_same_file(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        compile_model(tiny_network(), tmp_path / name / "p.so", target="cuda-sm80", images=2)
    assert (tmp_path / "a/p.so").read_bytes() == (tmp_path / "b/p.so").read_bytes()
    manifest = read_container(tmp_path / "a/p.so").manifest["program"]
    assert manifest["inputs"][0]["shape"][0] == manifest["launches"]["images"] == 2
    text = inspection_view(inspect_file(tmp_path / "a/p.so"))
    assert "a card, sm_80" in text and re.search(r"\d+ kernels, .* by CUDA\s\d+", text)
    with pytest.raises(
        ProgramError, match=r"for a graphics card; got a program for cuda-sm80.*--device cuda"
    ):
        Program.load(tmp_path / "a/p.so")


def test_without_a_compiler_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_PATH", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"no CUDA compiler.*aqd-deploy\[cuda\]"):
        compile_model(tiny_network(), tmp_path / "p.so", target="cuda-sm80")
    assert not list(tmp_path.iterdir())


def test_a_cpu_takes_one_image(tmp_path):
    with pytest.raises(ShapeError, match=r"one image; got 2; valid: 1, or the target of a card"):
        compile_model(tiny_network(), tmp_path / "p.so", target="x86-64-v2", images=2)


def test_a_card_without_kernels_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("AQD_DEPLOY_TARGETS", str(tmp_path))
    (tmp_path / "old.toml").write_text('extends = "cuda-sm80"\ndescription = "x"\ncard = "sm_70"\n')
    (tmp_path / "wrong.toml").write_text('extends = "cuda-sm80"\ndescription = "x"\ncard = "Volta"\n')
    with pytest.raises(TargetError, match=r"no kernels for this card; got 'sm_70'"):
        compile_model(tiny_network(), tmp_path / "p.so", target="old", toolchain=CudaCompiler("nvcc", "path"))
    with pytest.raises(TargetError, match=r"wrong value of 'card'"):
        targets.get("wrong")
