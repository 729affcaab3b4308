"""A bundle for a card: its runner needs the driver alone, and computes what everything else computes.

The driver is `card_native/driver.cc`, which runs the program's kernels by the emulation.
"""

import json
import os
import re
import subprocess
from pathlib import Path

import card_emulation
import numpy as np
import pytest
from bundle_models import MODEL, assert_equal, case
from needs import need

from aqd_deploy.bundle import Bundle, create_bundle
from aqd_deploy.compiler import compile_model
from aqd_deploy.compiler.launch_section import functions_of
from aqd_deploy.compiler.launches import build_launches
from aqd_deploy.compiler.nvcc import CudaCompiler
from aqd_deploy.compiler.planning import plan_for_card
from aqd_deploy.kernels.cuda.backend import CudaBackend

# The profile, its card, the compiler of its CPU, and what runs that CPU's programs here.
BOARDS = [
    pytest.param(("cuda-sm80", "80", "g++", ()), id="cuda-sm80"),
    pytest.param(
        (
            "jetson-orin-nano-gpu",
            "87",
            "aarch64-linux-gnu-g++",
            ("qemu-aarch64-static", "-L", "/usr/aarch64-linux-gnu"),
        ),
        id="jetson",
        marks=[pytest.mark.needs_qemu, pytest.mark.needs_cross],
    ),
]


class NoCompiler(CudaCompiler):
    """Makes no code: kernels are those of the emulation."""

    def version(self):
        return "13.0"

    def compile(self, source, included, card, folder):
        return b"\x7fELF of no card", ""


@pytest.fixture(scope="module", params=BOARDS)
def board(request, tmp_path_factory):
    """The bundle, and how its runner is called where there is a card of an architecture."""
    target, card, compiler, emulator = request.param
    need(compiler)
    folder = tmp_path_factory.mktemp(target)
    compile_model(MODEL, folder / "p.so", target=target, toolchain=NoCompiler("none", "path"))
    bundle = create_bundle(folder / "p.so", folder / "b")
    launches = build_launches(plan_for_card(MODEL), CudaBackend(f"sm_{card}"), 1)
    kernels = card_emulation.write_library(functions_of(launches), folder, compiler)
    driver = card_emulation.EMULATION / "driver.cc"
    command = [compiler, "-shared", "-fPIC", "-O1", driver, "-o", folder / "libcuda.so.1", "-ldl"]
    subprocess.run(command, check=True)

    def run(*options: object, card: str = card, driver: bool = True) -> subprocess.CompletedProcess:
        words = [*emulator, bundle.path / "aqd-run", *options]
        settings = {"AQD_KERNELS": str(kernels), "AQD_CARD": card}
        settings |= {"LD_LIBRARY_PATH": str(folder)} if driver else {}
        environment = {**os.environ, **settings}
        return subprocess.run([str(word) for word in words], capture_output=True, text=True, env=environment)

    return bundle, run


def test_its_integers_are_those_of_the_reference(board, tmp_path):
    _, run = board
    for seed in range(2):
        inputs, expected = case(seed)
        np.save(tmp_path / "x.npy", inputs["image"])
        done = run("--input", f"image={tmp_path / 'x.npy'}", "--output", tmp_path / "o", "--repeat", 2)
        assert done.returncode == 0, done.stderr
        document = json.loads(done.stdout)
        assert len(document["seconds"]) == 2
        names = [each["name"] for each in document["outputs"]]
        assert_equal({name: np.load(tmp_path / "o" / f"{i}.npy") for i, name in enumerate(names)}, expected)


def test_it_holds_no_runtime_and_says_what_it_needs(board):
    bundle: Bundle = board[0]
    assert set(bundle.files) == {"program.so", "aqd-run", "README.txt", "manifest.json", "manifest.sha256"}
    card = bundle.manifest["target"]["card"]
    readme = (bundle.path / "README.txt").read_text()
    assert f"an NVIDIA card of {card} and its driver (libcuda.so.1)" in readme and "TVM" not in readme


REFUSALS = {
    "another card": ({"card": "75"}, r"for another card; got code for sm_8\d; valid: sm_75"),
    "a newer generation": ({"card": "90"}, r"for another card; got code for sm_8\d; valid: sm_90"),
    "no driver": ({"driver": False}, r"no driver for NVIDIA's cards; got no libcuda\.so\.1"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_it_cannot_run_on_is_one_sentence(name, board):
    if name == "no driver" and Path("/usr/lib/x86_64-linux-gnu/libcuda.so.1").exists():
        pytest.skip("this machine has a driver")
    how, sentence = REFUSALS[name]
    done = board[1](**how)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.search(sentence, done.stderr)
