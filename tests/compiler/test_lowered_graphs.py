"""Random QDQ graphs, lowered and compiled: 120 of them, 500 with `-m matrix`, and not one integer differs
from onnxruntime's.

A graph's structure and its numbers have seeds of their own: `renumber` draws new weights, batch norms and
scales for a structure, so that many graphs share their compiled kernels.
"""

import numpy as np
import onnx
import pytest
import qdq_graphs
from onnx import numpy_helper
from random_graphs import merge
from small_models import random_image, runnable_targets

from aqd_deploy.compiler import compile_model
from aqd_deploy.integer.reference import ReferenceRunner
from aqd_deploy.passes.pipeline import lower
from aqd_deploy.runtime import Program

CHUNKS, STRUCTURES = 4, 3


def renumber(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """`model` with other numbers: weights and batch norms in another order, other biases and scales."""
    rng = np.random.default_rng(seed)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        kind = tensor.name.rsplit("_", 1)[0]
        value = numpy_helper.to_array(tensor)
        if kind in ("weight", "bn", "bias"):
            value = rng.permutation(value.reshape(-1)).reshape(value.shape)
        if kind in ("step", "step_w", "level_scale", "bias"):
            value = (value * rng.uniform(0.8, 1.25, value.shape)).astype(value.dtype)
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), tensor.name))
    return copy


@pytest.mark.parametrize("numbers", [7, pytest.param(42, marks=pytest.mark.matrix)])
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_lowered_graphs_are_exact(chunk, numbers, tmp_path):
    models = []
    for structure in range(chunk * STRUCTURES, (chunk + 1) * STRUCTURES):
        graph = qdq_graphs.random_graph(structure)
        models += [lower(renumber(graph, seed)).model for seed in range(numbers)]
    merged = merge(models)
    assert len(merged.graph.input) == STRUCTURES * numbers
    inputs = random_image(merged, chunk)
    expected: dict[str, np.ndarray] = {}
    for i, model in enumerate(models):
        outputs = ReferenceRunner(model, threads=1).run({"image": inputs[f"g{i}_image"]})
        expected |= {f"g{i}_{name}": value for name, value in outputs.items()}
    assert len({value.tobytes() for value in expected.values()}) > 0.8 * len(expected)
    for target in runnable_targets():
        compile_model(merged, tmp_path / f"{target}.so", target=target, threads=2)
        got = Program.load(tmp_path / f"{target}.so").run(inputs)
        wrong = [name for name, value in expected.items() if not np.array_equal(got[name], value)]
        assert not wrong, f"{target}: {len(wrong)} of {len(expected)} outputs differ"
