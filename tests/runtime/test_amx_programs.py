"""Programs whose kernels use tiles: from many threads, in forked processes, where the kernel refuses them."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from amx_refusal import WITHHELD, needs_amx, refuse_amx
from small_programs import Compiled, assert_equal, compile_parallel, run_script
from test_forks import FORK, POOL

from aqd_deploy.kernels.cpu.amx.tiles import REFUSED
from aqd_deploy.runtime import Program

pytestmark = needs_amx


@pytest.fixture(scope="module")
def tiles(tmp_path_factory) -> Compiled:
    """A program that multiplies tiles in loops in parallel."""
    compiled = compile_parallel(tmp_path_factory.mktemp("tiles") / "m.so", 2, "sapphirerapids")
    layers = Program.load(compiled.path).manifest["program"]["layers"]
    assert any(layer["choice"] and layer["choice"].get("pixel_parts") == 2 for layer in layers)
    assert b"TVMBackendParallelLaunch" in compiled.content
    return compiled


@pytest.mark.parametrize("threads", [1, 2])
def test_eight_threads_at_once(threads, tiles):
    """Tiles of one call must not be those of another, whichever core takes over from whichever."""
    program = Program.load(tiles.path, threads)
    inputs = [program.random_inputs(seed) for seed in range(40)]
    alone = [program.run(each) for each in inputs]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            for got, expected in zip(pool.map(program.run, inputs), alone, strict=True):
                assert_equal(got, expected)
    assert_equal(program.run(tiles.inputs), tiles.outputs)


@pytest.mark.parametrize("when", ["after runs", "before runs"])
def test_a_pool_of_forked_processes(when, tiles):
    assert run_script(POOL, tiles.path, when) == "equal\n"


@pytest.mark.parametrize("what", ["same", "lambda: same(Program.load(sys.argv[1]))"])
def test_what_a_forked_child_does(what, tiles):
    script = f"{FORK}\nprint([forked({what}) for _ in range(3)], same(), flush=True)"
    assert run_script(script, tiles.path) == "[0, 0, 0] True\n"


LOAD = """
import sys
from aqd_deploy.errors import ProgramError
from aqd_deploy.runtime import Program

try:
    Program.load(sys.argv[1])
except ProgramError as error:
    print(error.sentence())
"""
# As a server does that knows nothing of what it loads.
CALL = """
import sys
import numpy
from aqd_deploy.runtime import backend

library = backend.ffi().load_module(sys.argv[1])
machine = backend.new_machine(library)
image = backend.ffi().from_dlpack(numpy.zeros((1, 3, 32, 32), "uint8"))
for _ in range(2):
    try:
        machine["main"](image, *machine["prepare"]())
    except RuntimeError as error:
        print(str(error).splitlines()[-1])
"""


def refused(script, program):
    done = subprocess.run(
        [sys.executable, "-c", script, program],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=refuse_amx,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_a_process_that_may_not_use_tiles_does_not_load_it(tiles):
    assert refused(LOAD, tiles.path) == [
        f"{tiles.path} needs what this process may not use, {WITHHELD}; got a program for sapphirerapids; "
        "try: aqd-deploy compile MODEL.onnx --target cascadelake -o PROGRAM.so"
    ]


def test_a_kernel_that_is_called_all_the_same_fails_and_does_not_crash(tiles):
    assert [line.removeprefix("RuntimeError: ") for line in refused(CALL, tiles.path)] == [REFUSED] * 2
