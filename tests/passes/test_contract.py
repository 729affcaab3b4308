"""Passes are held to what they require and ensure, are told apart by phase, and have a test a case."""

import ast
import re
from pathlib import Path

import pytest
from small_lowerings import chain, state_after

from aqd_deploy.passes import foreign_operations, integer_operations, operations
from aqd_deploy.passes.contract import Lowering, Pass, PassError, PassResult
from aqd_deploy.passes.graph import Operation
from aqd_deploy.passes.pipeline import PASSES, PHASES

HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / "passes"


def quantized(b, x):
    return b.conv(b.quantize(x, 4, 0.25), 4, 4)


def names():
    return [each.name for each in PASSES]


@pytest.mark.parametrize(
    "name",
    [
        "read_qdq",
        "fold_quantizers",
        "move_scales",
        "solve_requantize",
        "write_integer",
    ],
)
def test_a_pass_that_does_nothing_breaks_its_promise(name, monkeypatch):
    """Without one of these steps a PassError names the pass, and those that ran before it."""
    each = PASSES[names().index(name)]
    monkeypatch.setattr(type(each), "run", lambda self, state: PassResult(self.name))
    before = ", ".join(names()[: names().index(name)])
    with pytest.raises(PassError, match=rf"{name} leaves what it must not: .* \(passes before: {before}\)"):
        state_after("verify_integer", chain(quantized))


@pytest.mark.parametrize("each", PASSES[3:], ids=names()[3:])
def test_a_pass_that_comes_first_does_not_find_what_it_requires(each):
    with pytest.raises(PassError, match=rf"{each.name} finds what it must not: .* \(passes before: none\)"):
        each(Lowering(chain()))


def test_the_state_before_a_file_is_read_or_written_is_an_error():
    state = Lowering(chain())
    for question in ("graph", "integer", "report"):
        with pytest.raises(PassError, match="no "):
            getattr(state, question)


@pytest.mark.parametrize("each", PASSES, ids=names())
def test_a_pass_says_its_graphs_and_its_cases_and_each_case_has_a_test(each):
    """The docstring has the graph before and after; test_<name>.py has `test_case_<n>_…` for every number."""
    text = type(each).__doc__
    assert "──" in text
    cases = {int(number) for number in re.findall(r"^    (\d+)\. ", text, re.MULTILINE)}
    assert cases == set(range(1, len(cases) + 1)) and cases
    tree = ast.parse((HERE / f"test_{each.name}.py").read_text(encoding="utf-8"))
    functions = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    tested = {int(match[1]) for name in functions if (match := re.match(r"test_case_(\d+)_", name))}
    assert tested == cases


def test_every_pass_is_one_file_and_stands_in_the_list_once_with_its_reason():
    assert len(set(names())) == len(names()) == sum(map(len, PHASES.values()))
    lines = (SOURCES / "pipeline.py").read_text(encoding="utf-8").splitlines()
    for each in PASSES:
        assert (SOURCES / f"{each.name}.py").exists()
        (line,) = [line for line in lines if line.strip().startswith(f"{type(each).__name__}(),")]
        assert len(line.partition("#")[2]) > 10
    assert {type(each) for each in PASSES} == set(Pass.__subclasses__())


def test_operations_are_frozen_and_have_no_dictionary_but_that_of_the_file():
    kinds = [
        kind
        for module in (operations, integer_operations, foreign_operations)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Operation)
    ]
    assert len(kinds) > 40
    for kind in kinds:
        assert kind.__dataclass_params__.frozen, kind
        untyped = [name for name, told in getattr(kind, "__annotations__", {}).items() if "Any" in str(told)]
        assert not untyped or kind is operations.FileOperation, kind


@pytest.mark.parametrize(
    "kind",
    [operations.IntegerOperation, integer_operations.Accumulators, integer_operations.Settled],
    ids=str,
)
def test_an_operation_of_the_integer_file_says_how_it_is_written(kind):
    values = [None] * len(getattr(kind, "__dataclass_fields__", ()))
    with pytest.raises(TypeError, match="abstract"):
        kind(*values)


def test_passes_keep_no_state():
    """An instance is used for every lowering, so nothing is set on it."""
    for each in PASSES:
        before = dict(vars(each))
        state_after("verify_integer", chain(quantized))
        assert vars(each) == before == {}
