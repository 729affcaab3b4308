"""A bundle whose kernels use tiles: its integers, and what the runner says where the kernel refuses tiles."""

import subprocess

import pytest
from amx_refusal import WITHHELD, needs_amx, refuse_amx
from bundle_models import assert_equal
from small_models import parallel_network, random_image, reference

from aqd_deploy.bundle import Bundle, create_bundle
from aqd_deploy.compiler import compile_model

pytestmark = needs_amx


MODEL = parallel_network({"name": "tiles"})


@pytest.fixture(scope="module")
def tiles(tmp_path_factory) -> Bundle:
    """Of a network whose convolutions are products of tiles."""
    folder = tmp_path_factory.mktemp("tiles")
    program = compile_model(MODEL, folder / "m.so", target="sapphirerapids", threads=2, tuned="none")
    assert any(layer["kernel"].startswith("amx") for layer in program.manifest["program"]["layers"])
    return create_bundle(program.path, folder / "bundle")


@pytest.mark.parametrize("threads", [1, 2])
def test_the_runner_computes_the_reference(threads, tiles, outputs_of):
    for seed in range(3):
        inputs = random_image(MODEL, seed)
        got = outputs_of(tiles.path, inputs, "--threads", threads, "--repeat", 3)
        assert_equal(got, reference(MODEL, inputs))


def test_the_runner_where_tiles_are_refused(tiles):
    done = subprocess.run(
        [tiles.path / "aqd-run"], capture_output=True, text=True, check=False, preexec_fn=refuse_amx
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"error: the program needs what this process may not use, {WITHHELD}; got a program for "
        "sapphirerapids; try: aqd-deploy compile --target cascadelake\n"
    )
