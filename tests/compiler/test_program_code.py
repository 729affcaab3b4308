"""The machine code of linked programs, as `objdump` reads it: every x86-64 profile has the instructions that
it is for, and none that its CPUs may lack.
"""

from __future__ import annotations

import re
import subprocess

import pytest
from needs import need
from small_models import TARGETS, parallel_network

from aqd_deploy import targets
from aqd_deploy.compiler import compile_model

TILES = r"%tmm\d|\btdp|\bldtilecfg|\btilerelease"
# Registers of AVX-512, and those that it added to narrower vectors.
AVX512 = r"%zmm|%[xy]mm(?:1[6-9]|2\d|3[01])\b|%k[0-7]\b"
VNNI = r"\bvpdp"
# What there must be, and what there must not.
CODE = {
    "x86-64-v2": ((), (r"%ymm", VNNI, AVX512, TILES)),
    "x86-64-v3": ((r"%ymm", r"\bvpmaddubsw"), (VNNI, AVX512, TILES)),
    "alderlake": ((r"\{vex\} vpdpbusd .*%ymm",), (r"(?<!\{vex\} )\bvpdp", AVX512, TILES)),
    "x86-64-v4": ((r"%zmm", r"\bvpmaddubsw"), (VNNI, TILES)),
    "cascadelake": ((r"\bvpdpbusd .*%zmm",), (r"\{vex\}", TILES)),
    "sapphirerapids": ((r"\btdpbusd", r"\bldtilecfg", r"\btilerelease", r"\bvpdpbusd .*%zmm"), (r"\{vex\}",)),
}
_LINE = re.compile(r"^ *([0-9a-f]+):\t(.*)$", re.MULTILINE)
_JUMP = re.compile(r"j[a-z]+ +([0-9a-f]+)\b")

pytestmark = pytest.mark.skipif(
    targets.read_cpu().architecture != "x86_64", reason="x86-64 programs are linked and read on x86-64"
)


def disassembled(name: str, folder) -> list[tuple[int, str]]:
    """Address and instruction of everything in a program for the profile `name`."""
    need("objdump")
    model = parallel_network({"name": "parallel"})
    program = compile_model(model, folder / "m.so", target=name, threads=2, tuned="none").path
    command = ["objdump", "-d", "--no-show-raw-insn", program]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [(int(address, 16), " ".join(told.split())) for address, told in _LINE.findall(text)]


def test_every_instruction_set_is_looked_at():
    assert set(CODE) == set(TARGETS)


@pytest.mark.parametrize("name", CODE)
def test_a_program_has_the_instructions_of_its_profile(name, tmp_path):
    text = "\n".join(instruction for _, instruction in disassembled(name, tmp_path))
    present, absent = CODE[name]
    assert [each for each in present if not re.search(each, text)] == []
    assert [found[0] for each in absent if (found := re.search(each, text))] == []


def test_tiles_are_multiplied_in_loops(tmp_path):
    code = disassembled("sapphirerapids", tmp_path)
    jumps = [(int(jump[1], 16), address) for address, told in code if (jump := _JUMP.match(told))]
    products = [address for address, told in code if told.startswith("tdpbusd")]
    assert products
    for address in products:
        assert any(start <= address < jump for start, jump in jumps)
