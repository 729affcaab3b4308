"""Files and functions stay short enough to be read in one go, and every folder says what lives in it."""

import ast

from needing import ROOT

FOLDERS = ("aqd_deploy", "passes", "targets", "tools", "tests", "examples")
LONGEST_FILE, LONGEST_FUNCTION = 450, 60
SOURCES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*.py")
}


def functions(text):
    """Name and number of lines of every function."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.end_lineno - node.lineno + 1


def test_files_are_short():
    lengths = {path: len(text.splitlines()) for path, text in SOURCES.items()}
    assert {path: lines for path, lines in lengths.items() if lines > LONGEST_FILE} == {}


def test_functions_are_short():
    long = {
        f"{path}: {name}": lines
        for path, text in SOURCES.items()
        for name, lines in functions(text)
        if lines > LONGEST_FUNCTION
    }
    assert long == {}


def test_every_module_says_what_it_is_for():
    product = {path: text for path, text in SOURCES.items() if not path.startswith("tests/")}
    assert [path for path, text in product.items() if not ast.get_docstring(ast.parse(text))] == []


def test_no_two_test_files_have_one_name():
    """pytest imports them by their names alone."""
    places = {}
    for path in SOURCES:
        folder, _, name = path.rpartition("/")
        if folder.startswith("tests") and name.startswith("test_"):
            places.setdefault(name, []).append(folder)
    assert {name: folders for name, folders in places.items() if len(folders) > 1} == {}
