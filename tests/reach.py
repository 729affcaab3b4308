"""Which test modules reach a program on PATH, so that what is installed can change them.

Read from the sources, not from a list: a module reaches one where it, a helper beside it, its folder's
fixtures or anything of this project that they import looks for programs, starts one, or imports by a name
that is only known when it runs. `pytest --reaching-programs` runs those alone; `.ci/run` does, with the
optional tools hidden.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
# Packages that lie elsewhere than their names say (pyproject.toml).
_MAPPED = {"aqd_deploy.passes": ROOT / "passes", "aqd_deploy.targets": ROOT / "targets"}
_SIGNS = {"subprocess", "shutil.which", "importlib.import_module"}


def reaches_programs(test: Path) -> bool:
    """Whether the test module at `test` reaches a program."""
    folders = _folders_of(test)
    waiting, seen = [test, *(folder / "conftest.py" for folder in folders)], {TESTS / "conftest.py"}
    while waiting:
        path = waiting.pop()
        if path in seen or not path.is_file():
            continue
        seen.add(path)
        looks, imported = _read(path)
        if looks:
            return True
        waiting += [found for name in imported for found in _files(name, folders)]
    return False


def _folders_of(test: Path) -> list[Path]:
    """The folder of a test module and those around it, up to `tests`: pytest finds helpers in all of them."""
    return [folder for folder in test.parents if folder == TESTS or TESTS in folder.parents] or [test.parent]


@functools.cache
def _read(path: Path) -> tuple[bool, tuple[str, ...]]:
    """Whether the file at `path` itself reaches a program, and the names that it imports, wherever in it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = tuple(_imported(tree))
    dotted = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return bool({*imported, *dotted} & _SIGNS), imported


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _files(name: str, folders: list[Path]) -> Iterator[Path]:
    """The files that importing `name` runs, where they are ours: a test's helper, or a module of the package
    with the packages around it.
    """
    if "." not in name:
        yield from (folder / f"{name}.py" for folder in (*folders, TESTS))
    parts = name.split(".")
    if parts[0] != "aqd_deploy":
        return
    for depth in range(1, len(parts) + 1):
        place = _place(parts[:depth])
        yield place / "__init__.py"
        yield place.with_suffix(".py")


def _place(parts: list[str]) -> Path:
    mapped = _MAPPED.get(".".join(parts[:2]))
    return mapped.joinpath(*parts[2:]) if mapped is not None else ROOT.joinpath(*parts)
