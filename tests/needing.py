"""Which test modules say that they need something that README.md does not ask for (`needs.py`): those in
which something is missing where only that is installed.

Read from the sources, not from a list: the module itself, a helper beside it or its folder's fixtures speak
of `needs`. `pytest --needing` runs those alone; `.ci/run` does, where nothing optional is installed.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent


def says_needs(test: Path) -> bool:
    """Whether the test module at `test` says that something is needed."""
    folders = _folders_of(test)
    waiting, seen = [test, *(folder / "conftest.py" for folder in folders)], {TESTS / "conftest.py"}
    while waiting:
        path = waiting.pop()
        if path in seen or not path.is_file():
            continue
        seen.add(path)
        marked, imported = _read(path)
        if marked or "needs" in imported:
            return True
        waiting += [folder / f"{name}.py" for name in imported for folder in (*folders, TESTS)]
    return False


def _folders_of(test: Path) -> list[Path]:
    """The folder of a test module and those around it, up to `tests`: pytest finds helpers in all of them."""
    return [folder for folder in test.parents if folder == TESTS or TESTS in folder.parents] or [test.parent]


@functools.cache
def _read(path: Path) -> tuple[bool, tuple[str, ...]]:
    """Whether the file at `path` uses a marker of a need, and the names that it imports, wherever in it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return any(name.startswith("needs_") for name in used), tuple(_imported(tree))


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
