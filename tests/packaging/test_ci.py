"""What `.ci/run` rests on: the README's command, and a PATH of nothing but what README.md asks for."""

import re
import subprocess
from pathlib import Path

from needs import TOOLS, need

ROOT = Path(__file__).resolve().parents[2]


def test_the_bare_path_has_a_compiler_and_no_optional_tool(tmp_path):
    need("dpkg-query", "c++")
    subprocess.run([ROOT / ".ci" / "bare_path", tmp_path], check=True)
    found = {path.name for path in tmp_path.iterdir()}
    assert {"sh", "env", "tar", "cc", "c++", "ld", "as"} <= found
    optional = {Path(name).name for names, _ in TOOLS.values() for name in names}
    optional |= {"ssh", "llvm-mca", "nvcc", "zig", "aarch64-linux-gnu-gcc", "arm-linux-gnueabihf-g++", "make"}
    assert not optional & found
    assert all(path.resolve().exists() for path in tmp_path.iterdir())


def test_ci_runs_the_command_of_the_readme_and_installs_what_it_names():
    readme, script = (path.read_text() for path in (ROOT / "README.md", ROOT / ".ci" / "run"))
    assert "pip install -e '.[test]' && pytest" in readme.splitlines()
    named = re.search(r"`apt-get install (qemu[^`]*)`", readme)[1].split()
    installed = re.search(r"^packages=\((.*)\)$", script, re.MULTILINE)[1].split()
    assert set(named) <= set(installed)


def test_linters_are_the_same_everywhere():
    script = (ROOT / ".ci" / "run").read_text().splitlines()
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    entries = re.findall(r"^ +entry: (.+)$", hooks, re.MULTILINE)
    assert entries == [line for line in script if line.startswith(("ruff ", "mypy"))]
    assert "- run: bash .ci/run" in (ROOT / ".github" / "workflows" / "ci.yml").read_text()
