"""The entries of the dialect's operations: complete, true, and alone in knowing operations by name."""

import ast
from pathlib import Path

import numpy as np
import onnx
import pytest
from graph_meaning import values_of
from onnx import helper
from small_models import every_operation, random_image

import aqd_deploy
from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.integer import dialect, operations
from aqd_deploy.integer.domain import DOMAIN
from aqd_deploy.integer.inspect import float_tensors
from aqd_deploy.integer.operations import OPERATIONS, find_operation
from aqd_deploy.integer.operations.entry import Function
from aqd_deploy.integer.reader import read_graph
from aqd_deploy.integer.reference import ReferenceRunner

PACKAGE = Path(aqd_deploy.__file__).parent
REPOSITORY = Path(__file__).parents[2]
FUNCTIONS = {entry.name for entry in OPERATIONS if isinstance(entry, Function)}
STANDARD = {entry.name for entry in OPERATIONS} - FUNCTIONS


def test_the_example_holds_every_operation():
    """So that a new one cannot be left out of what is tested here."""
    nodes = [node for node in every_operation().graph.node if node.op_type != "Constant"]
    found = {operations.operation_of(node).name for node in nodes}
    assert found == {entry.name for entry in OPERATIONS}


@pytest.mark.parametrize("seed", range(4))
def test_meaning_body_and_interval_agree(seed):
    """onnxruntime runs the bodies; `values_of` holds the entries' meaning to their intervals and types."""
    model = every_operation()
    graph = read_graph(model)
    image = random_image(model, seed)
    expected = values_of(graph, image)
    got = ReferenceRunner(model, threads=1, with_intermediates=True).run(image)
    for node in graph.nodes:
        assert got[node.output].dtype == graph.types[node.output].dtype, node.label
        assert (got[node.output] == expected[node.output]).all(), node.label
        assert np.ptp(expected[node.output]) > 0, node.label


def test_constant_images_reach_the_ends_of_what_is_possible():
    model = every_operation()
    graph = read_graph(model)
    for value in (0, 255):
        values_of(graph, {"image": np.full(graph.types["image"].nchw, value, np.uint8)})


def test_codes_hold_the_proven_interval():
    graph = read_graph(every_operation())
    quantizers = [node for node in graph.nodes if node.entry.codes(node, graph) is not None]
    assert {node.op for node in quantizers} >= {"Requantize", "Threshold"}
    for node in quantizers:
        low, high = node.entry.codes(node, graph)
        proven = graph.ranges[node.output].bounds
        assert low <= proven[0] <= proven[1] <= high


def test_what_moves_data_returns_values_of_its_inputs():
    model = every_operation()
    graph = read_graph(model)
    values = values_of(graph, random_image(model))
    movers = [node for node in graph.nodes if node.entry.moves_data]
    assert {node.entry.name for node in movers} >= {"MaxPool", "MaxPool_k{K}s{S}p{P}", "Resize", "Concat"}
    for node in movers:
        sources = np.concatenate([values[name].ravel() for name in node.inputs if name in values])
        assert np.isin(values[node.output], sources).all(), node.label


@pytest.mark.parametrize("name", sorted(FUNCTIONS - {"MaxPool_k{K}s{S}p{P}"} | {"MaxPool_k3s2p1"}))
def test_bodies_are_standard_and_take_what_the_entry_says(name):
    entry, function = find_operation(DOMAIN, name), operations.function(name)
    assert all(node.domain == "" for node in function.node)
    operands = [operand.name for operand in entry.operands]
    assert list(function.input) == [*entry.sources, *operands]
    assert entry.inputs == (len(function.input), len(function.input))
    assert list(function.attribute) == list(entry.attributes)
    assert len(function.node) >= entry.smallest_body(name)


def test_the_specification_has_a_line_for_every_operation():
    text = (REPOSITORY / "docs" / "integer-dialect.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| ")]
    for entry in OPERATIONS:
        name = f"{DOMAIN}.{entry.name}" if entry.domain else entry.name
        pattern = name.replace("k{K}s{S}p{P}", "k3s2p1")
        assert any(f"`{pattern}`" in row for row in rows), name


def softmax() -> onnx.ModelProto:
    """A graph whose only operation is not of the dialect."""
    model = every_operation()
    model.graph.node[0].op_type = "Softmax"
    return model


def test_unknown_operations_are_refused():
    for refuse in (
        read_graph,
        float_tensors,
        lambda model: operations.operation_of(model.graph.node[0]),
        lambda model: dialect.functions_for(model.graph.node),
    ):
        with pytest.raises(UnsupportedModelError, match="Softmax"):
            refuse(softmax())


def test_the_domain_of_onnx_has_two_names():
    assert find_operation("ai.onnx", "Add") is find_operation("", "Add")
    assert find_operation(DOMAIN, "Add") is None
    assert find_operation("", "Requantize") is None
    assert find_operation("com.microsoft", "Add") is None


def test_an_overload_is_another_operation():
    node = helper.make_node("Add", ["a", "b"], ["y"], overload="wide")
    with pytest.raises(UnsupportedModelError, match=r"got ai\.onnx\.Add:wide"):
        operations.operation_of(node)


# Who may know operations by name: their entries, and the compiler's table of how each is run. Frontends and
# quantization write QDQ, whose operators are ONNX's own.
ENTRIES = ("integer/operations/", "compiler/lowerings.py")
# They name ONNX's operators of float and QDQ files.
WRITERS = ("frontends/", "quantization/", "evaluation/float64_network.py")


def named(path: Path, names: set[str]) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [
        f"{path.name}:{node.lineno} {node.value}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in names
    ]


def test_nobody_else_knows_an_operation_by_name():
    found = []
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 100
    for path in files:
        name = path.relative_to(PACKAGE).as_posix()
        if not name.startswith(ENTRIES):
            found += named(path, FUNCTIONS if name.startswith(WRITERS) else FUNCTIONS | STANDARD)
    assert found == []


def test_the_search_finds_a_name(tmp_path):
    file = tmp_path / "switch.py"
    file.write_text('if node.op == "Requantize":\n    pass\n', encoding="utf-8")
    assert named(file, FUNCTIONS) == ["switch.py:1 Requantize"]
