"""What lowers also compiles: the unusual graphs in one program, no integer differs from onnxruntime's."""

import numpy as np
import odd_graphs
from random_graphs import merge

from aqd_deploy.compiler import compile_model
from aqd_deploy.integer.reference import ReferenceRunner
from aqd_deploy.passes.pipeline import lower
from aqd_deploy.runtime import Program


def test_odd_graphs_compile_to_the_same_integers(tmp_path):
    models = {name: lower(make()).model for name, make in odd_graphs.LOWERED.items()}
    inputs, expected = {}, {}
    for i, (name, model) in enumerate(models.items()):
        values = odd_graphs.inputs_of(model, i)
        outputs = ReferenceRunner(model, threads=1).run(values)
        inputs |= {f"g{i}_{key}": value for key, value in values.items()}
        expected |= {f"g{i}_{key}": (name, value) for key, value in outputs.items()}
    compile_model(merge(list(models.values())), tmp_path / "odd.so")
    got = Program.load(tmp_path / "odd.so").run(inputs)
    wrong = [name for key, (name, value) in expected.items() if not np.array_equal(got[key], value)]
    assert not wrong
