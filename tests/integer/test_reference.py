"""The reference runner and the count of float tensors."""

import numpy as np
import pytest
from qdq_graphs import random_graph, random_image

from aqd_deploy.errors import ModelFileError, ShapeError
from aqd_deploy.integer.files import save_onnx
from aqd_deploy.integer.inspect import float_tensors
from aqd_deploy.integer.reference import ReferenceRunner
from aqd_deploy.passes.pipeline import lower


@pytest.fixture(scope="module")
def qdq():
    return random_graph(3)


def test_runs_a_file_and_a_model_alike(qdq, tmp_path):
    model = lower(qdq).model
    save_onnx(model, tmp_path / "m.onnx")
    image = {"image": random_image(qdq, 1)}
    from_file, from_model = (
        ReferenceRunner(tmp_path / "m.onnx", threads=1).run(image),
        ReferenceRunner(model).run(image),
    )
    assert from_file.keys() == from_model.keys() == {o.name for o in qdq.graph.output}
    assert all((from_file[name] == from_model[name]).all() for name in from_file)
    assert all(value.dtype == np.int32 for value in from_file.values())


def test_intermediates_by_name_and_all(qdq):
    model = lower(qdq).model
    name = next(node.output[0] for node in model.graph.node if node.op_type == "Requantize")
    image = {"image": random_image(qdq, 1)}
    one = ReferenceRunner(model, with_intermediates=[name]).run(image)
    every = ReferenceRunner(model, with_intermediates=True).run(image)
    assert (one[name] == every[name]).all()
    assert {n.output[0] for n in model.graph.node} <= every.keys()


def test_wrong_inputs(qdq):
    runner = ReferenceRunner(qdq)
    with pytest.raises(ShapeError, match="missing"):
        runner.run({})
    with pytest.raises(ShapeError, match="another shape"):
        runner.run({"image": np.zeros((1, 3, 5, 5), np.uint8)})


def test_model_that_onnxruntime_refuses(qdq):
    broken = random_graph(3)
    broken.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(ModelFileError, match="onnxruntime"):
        ReferenceRunner(broken)


def test_float_tensors_are_found_in_qdq_and_absent_from_integer(qdq):
    assert len(float_tensors(qdq)) > 20
    assert float_tensors(lower(qdq).model) == []


def test_a_tensor_of_unknown_type_counts_as_float(qdq):
    model = lower(qdq).model
    node = next(node for node in model.graph.node if node.op_type == "Requantize")
    node.op_type, node.domain = "Mystery", "com.example"
    assert node.output[0] in float_tensors(model)
