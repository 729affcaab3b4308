"""Every rewrite stands in the list with its reason, shows its graphs, and has a test a case."""

import ast
import inspect
import re
from pathlib import Path

import pytest

from aqd_deploy.passes.canonical import rewrites
from aqd_deploy.passes.canonical.rewrites import REWRITES

HERE = Path(__file__).parent


@pytest.mark.parametrize("rewrite", REWRITES, ids=lambda each: each.__name__)
def test_a_rewrite_shows_its_graphs_and_each_case_has_a_test(rewrite):
    assert "        " in rewrite.__doc__
    assert cases_of(rewrite) == cases_with_a_test(Path(inspect.getfile(rewrite)).stem)


def cases_of(function):
    cases = [int(number) for number in re.findall(r"^    (\d+)\. ", function.__doc__, re.MULTILINE)]
    assert cases == list(range(1, len(cases) + 1)) and cases
    return set(cases)


def cases_with_a_test(module):
    tree = ast.parse((HERE / f"test_{module}.py").read_text(encoding="utf-8"))
    names = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return {int(match[1]) for name in names if (match := re.match(r"test_case_(\d+)_", name))}


def test_every_module_of_a_rewrite_is_in_the_list_once():
    modules = [inspect.getfile(rewrite) for rewrite in REWRITES]
    assert len(set(modules)) == len(modules)
    lines = Path(rewrites.__file__).read_text(encoding="utf-8").splitlines()
    for rewrite in REWRITES:
        (line,) = [line for line in lines if line.strip().startswith(f"{rewrite.__name__},  #")]
        assert len(line.partition("#")[2]) > 5
