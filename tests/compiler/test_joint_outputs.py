"""Which network outputs are computed by one convolution, and that their integers stay the same."""

import numpy as np
import pytest
from amx_refusal import needs_amx
from small_models import ModelWriter, random_image, reference

from aqd_deploy.compiler import compile_model
from aqd_deploy.compiler.borders import store_borders
from aqd_deploy.compiler.joint_outputs import join_outputs
from aqd_deploy.compiler.plan import Conv, Plan
from aqd_deploy.compiler.planning import plan_model
from aqd_deploy.errors import ShapeError
from aqd_deploy.kernels.contract.spec import AddBias, Bound, ConvSpec, Epilogue, Relu, StoreBorder
from aqd_deploy.kernels.cpu.conv.families import conv2d
from aqd_deploy.runtime import Program
from aqd_deploy.targets.isa import Isa


def detector(boxes: int = 4, rectified: tuple[bool, bool] = (True, False)):
    """Boxes with a bias, and a centre-ness without one, of two maps that one tower leads to."""
    w = ModelWriter()
    shared, heads = w.weight(64, 64, 3), (w.weight(boxes, 64, 3), w.weight(1, 64, 3))
    for i, size in enumerate([(20, 17), (4, 4)]):
        x = w.requantize(w.conv(w.image(f"level{i}", 64, *size), shared, pads=[1] * 4), 64)
        outputs = [w.conv(x, head, pads=[1] * 4) for head in heads]
        outputs[0] = w.bias(outputs[0], boxes)
        for output, relu in zip(outputs, rectified, strict=True):
            w.output(w.relu(output) if relu else output)
    return w.model()


def joined(model, can_join=lambda op: True) -> Plan:
    return join_outputs(store_borders(plan_model(model), lambda op: True), can_join)


def heads(plan: Plan) -> list[Conv]:
    return [op for op in plan.operations if isinstance(op, Conv) and op.spec.out_channels != 64]


def test_a_bias_and_a_relu_of_some_channels():
    (op,) = heads(joined(detector()))
    assert op.epilogue == Epilogue((AddBias(), Bound(upper=False)), (StoreBorder((4, 1)),))
    bias, bound = (rows.reshape(2, 5) for rows in op.parameters)
    assert not bias[:, 4].any() and bias[:, :4].any()
    assert bound.tolist() == [[0, 0, 0, 0, np.iinfo(np.int32).min]] * 2


def test_a_relu_of_all_channels_stays_one():
    (op,) = heads(joined(detector(rectified=(True, True))))
    assert op.epilogue.stages == (AddBias(), Relu())


def test_outputs_that_fill_a_vector_are_left_alone():
    assert [op.spec.out_channels for op in heads(joined(detector(boxes=16)))] == [16, 1]


def test_what_no_kernel_could_store_is_left_alone():
    plan = joined(detector(), lambda op: False)
    assert [op.epilogue.stores for op in heads(plan)] == [(StoreBorder(),)] * 2
    assert set(plan.weights) == {op.weight for op in plan.operations if isinstance(op, Conv)}


def test_a_family_that_does_not_split_outputs_says_so():
    with pytest.raises(ShapeError, match="do not split outputs"):
        conv2d(ConvSpec(5, 5, 64, 5, (1, 1)), Epilogue((), (StoreBorder((4, 1)),)), Isa.PORTABLE, 1)


@needs_amx
@pytest.mark.parametrize("rectified", [(True, False), (False, False)])
def test_a_program_with_joint_outputs_is_exact(rectified, tmp_path):
    model = detector(rectified=rectified)
    compile_model(model, tmp_path / "p.so")
    program = Program.load(tmp_path / "p.so")
    assert any("+" in layer["name"] for layer in program.manifest["program"]["layers"])
    inputs = random_image(model, 1)
    got = program.run(inputs)
    for name, value in reference(model, inputs).items():
        assert (got[name] == value).all()
