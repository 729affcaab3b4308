"""The commands that README.md and the how-to pages show are run as they stand there; only tuning gets less
time.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "digits"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "how-to").glob("*.md"))]
ELSEWHERE = ("pip install",)
"""Commands that other tests run: CI installs, tests/workflow runs the demonstration."""


def commands(page):
    """The lines `$ command   # comment` of the page's console blocks, without their comments."""
    for block in re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ ") and not line[2:].startswith(ELSEWHERE):
                yield re.sub(r"--budget \S+", "--budget 25s", line[2:].split("   #")[0])


@pytest.mark.e2e
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_work(page, tmp_path):
    shutil.copy(EXAMPLE / "checkpoints" / "fcos_r18_digits_2bit.pt", tmp_path / "checkpoint.pt")
    shutil.copy(EXAMPLE / "images" / "heldout_00000.png", tmp_path / "photo.jpg")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    found = list(commands(page))
    assert found
    for command in found:
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=str)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=str)
def test_what_every_network_reaches_is_for_a_trusted_one(page):
    for line in page.read_text().splitlines():
        if "--host 0.0.0.0" in line and "`" not in line:
            assert "trusted network" in line
