"""Files that lowering refuses because writers left floats in them, completed: their integers against their
float64 meaning.
"""

import networks
import pytest
from needs import need_packages
from onnx import TensorProto
from writers import WRITERS
from written_networks import deviations

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.passes.canonical.input_shapes import inputs_of
from aqd_deploy.passes.pipeline import lower
from aqd_deploy.quantization.calibration import Calibration
from aqd_deploy.quantization.complete import complete

COMPLETED = (
    "nncf-mixed squeeze",
    "nncf-transformer squeeze",
    "ort-qoperator transposed",
    "pt2e-x86 transposed",
)


@pytest.mark.parametrize("case", COMPLETED)
def test_what_a_writer_left_float_is_completed(case):
    writer, name = case.split()
    need_packages(*WRITERS[writer].packages)
    model = WRITERS[writer].write(name, networks.images())
    with pytest.raises(UnsupportedModelError):
        lower(model)
    source = inputs_of(model)[0].name
    done = complete(model, Calibration.of([{source: image} for image in networks.images(8)])).model
    result = lower(done)
    found = deviations(done, result, {source: networks.images(1, seed=9)[0]})
    assert found.pieces and found.most_steps <= 1
    assert all(beyond <= 0 for beyond in found.outputs.values())
    stored = {tensor.name: tensor for tensor in done.graph.initializer}
    codes = [tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.INT8]
    assert codes and all(stored[tensor.name] == tensor for tensor in codes if tensor.name in stored)
