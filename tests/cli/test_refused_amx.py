"""What the command line says where the kernel refuses AMX to a CPU that has it, and that its advice works."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from amx_refusal import WITHHELD, needs_amx, refuse_amx
from small_models import random_image, reference

from aqd_deploy.compiler import compile_model

pytestmark = needs_amx


@pytest.fixture
def refused(tmp_path):
    """Call the command line where AMX is refused: what it printed, and its errors."""

    def call(*arguments, code=0):
        command = [sys.executable, "-m", "aqd_deploy", *map(str, arguments)]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=tmp_path, preexec_fn=refuse_amx
        )
        assert done.returncode == code, done.stderr
        return done.stdout, done.stderr

    return call


def test_doctor_says_why(refused):
    text = refused("doctor")[0]
    assert re.search(rf"^not offered +{re.escape(WITHHELD)}$", text, re.MULTILINE)
    assert re.search(r"^kernels +vnni$", text, re.MULTILINE)
    assert max(map(len, text.splitlines())) <= 80
    document = json.loads(refused("doctor", "--target", "sapphirerapids", "--json")[0])
    (here,) = (check for check in document["checks"] if check["what"] == "this machine")
    assert here["detail"] == f"cannot run its programs by itself: lacks amx_int8, amx_tile ({WITHHELD})"


def test_a_program_says_what_to_compile_for_instead(refused, integer, integer_file, tmp_path):
    compile_model(integer, tmp_path / "m.so", target="sapphirerapids", threads=1, tuned="none")
    inputs = random_image(integer)
    np.savez(tmp_path / "x.npz", **inputs)
    run = ("run", "m.so", "--input", "x.npz", "-o", "y.npz")
    _, error = refused(*run, code=1)
    assert error.startswith(
        f"error: m.so needs what this process may not use, {WITHHELD}; got a program for "
    )
    advice = shlex.split(error.partition("try: aqd-deploy ")[2])
    assert "cascadelake" in advice
    refused(*[{"MODEL.onnx": integer_file, "PROGRAM.so": "m.so"}.get(word, word) for word in advice])
    refused(*run)
    with np.load(tmp_path / "y.npz") as found:
        for name, value in reference(integer, inputs).items():
            np.testing.assert_array_equal(found[name], value)
