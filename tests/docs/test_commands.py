"""What README.md and the how-to pages show is run as it stands there, from top to bottom, in a folder that
has the clone's `examples` and `tools` and nothing else; only tuning gets less time. What needs a board is
compared with the command line, and its files must have been made above. A section whose Python needs packages
that are not installed is left out, and fails in CI.
"""

import ast
import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import click
import pytest
from needs import need_packages

from aqd_deploy.cli.main import VERBS, cli

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "how-to").glob("*.md"))]
ELSEWHERE = ("pip install",)
"""Commands that other tests run: CI installs, tests/workflow runs the demonstration."""


FILE = re.compile(r"[\w./-]+\.(?:onnx|so|npz|npy|png|jpg|pt|toml)\b")


def sections(page):
    """The page's text in front of its first heading of the second level, and of each section behind it."""
    return re.split(r"^(?=## )", page.read_text(), flags=re.MULTILINE)


def blocks(text):
    """Language and text of every block, in their order."""
    return re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(text):
    """What is typed, in its order: the lines `$ command   # comment` of console blocks, without comments, the
    code of Python blocks, and the writing of TOML blocks, which begin with their file's name.
    """
    for language, block in blocks(text):
        if language == "python":
            yield f"python -c {shlex.quote(block)}"
        if language == "toml" and (name := re.match(r"# (\S+\.toml)\n", block)):
            yield f"printf %s {shlex.quote(block)} > {name[1]}"
        for line in block.splitlines() if language == "console" else ():
            if line.startswith("$ ") and not line[2:].startswith(ELSEWHERE):
                yield re.sub(r"--budget \S+", "--budget 40s", line[2:].split("   #")[0])


def missing_packages(text):
    """What the Python of a text imports and is not installed."""
    trees = [ast.parse(block) for language, block in blocks(text) if language == "python"]
    names = {
        name.partition(".")[0]
        for node in (node for tree in trees for node in ast.walk(tree))
        for name in (
            [alias.name for alias in node.names] if isinstance(node, ast.Import)
            else [node.module] if isinstance(node, ast.ImportFrom) else []
        )
    }  # fmt: skip
    return sorted(name for name in names if find_spec(name) is None)


def shown(page):
    """The lines of all other blocks that begin with `aqd-deploy`, or with a prompt and that."""
    for language, block in blocks(page.read_text()):
        for line in block.splitlines() if language not in ("console", "python") else ():
            if line.startswith("aqd-deploy "):
                yield line.split("   #")[0]


@pytest.mark.e2e
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_work(page, tmp_path):
    for folder in ("examples", "tools"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    missing = {section: missing_packages(section) for section in sections(page)}
    found = [
        command for section, packages in missing.items() if not packages for command in commands(section)
    ]
    assert found
    for command in found:
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
    need_packages(*(package for packages in missing.values() for package in packages))


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=str)
def test_what_is_not_run_can_be_typed(page):
    for line in shown(page):
        verb, *words = shlex.split(line)[1:]
        assert verb in VERBS, line
        parent = click.Context(cli, **cli.context_settings)
        cli.get_command(parent, verb).make_context(verb, words, parent)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_are_made_before_they_are_used(page):
    """A page that begins with a file that nobody has is of no use to whoever reads it first."""
    made = {path for path in FILE.findall(page.read_text()) if (ROOT / path).exists()}
    for command in [*commands(page.read_text()), *shown(page)]:
        files = set(FILE.findall(command))
        written = {
            file
            for file in files
            if re.search(rf"(-o |> |--save-recipe |savez?\(')({re.escape(file)})", command)
        }
        if command.startswith("python -c") and "\n" in command:
            # What a block of Python names and nothing before made, it makes.
            written = files - made
        written |= {file for file in files if file.startswith("bundle/")}
        assert files <= made | written, command
        made |= written


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=str)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=str)
def test_what_every_network_reaches_is_for_a_trusted_one(page):
    for line in page.read_text().splitlines():
        if "--host 0.0.0.0" in line and "`" not in line:
            assert "trusted network" in line
