"""com.microsoft's quantizers and fused convolutions."""

import numpy as np
import pytest
from canonical_meaning import canonical
from small_files import FileBuilder, constants_of, ops

from aqd_deploy.errors import UnsupportedModelError

MICROSOFT = "com.microsoft"


def test_case_1_quantizers_of_the_other_domain():
    b = FileBuilder()
    names = b.scale(0.1, np.uint8(9))
    q = b.node("QuantizeLinear", ["image", *names], domain=MICROSOFT)
    y = b.conv(b.node("DequantizeLinear", [q, *names], domain=MICROSOFT))
    state = b.rewritten(y)
    assert all(not node.domain for node in state.model.graph.node)


def fused(activation, parameters=(), added=False):
    b = FileBuilder()
    x = b.quantize("image")
    operands = [x, b.weights((4, 4, 1, 1)), "", x] if added else [x, b.weights((4, 4, 1, 1))]
    told = {"activation": activation, **({"activation_params": list(parameters)} if parameters else {})}
    y = b.node("FusedConv", operands, domain=MICROSOFT, **told)
    return canonical(b.model(b.conv(b.quantize(y))))


def test_case_2_the_activation_and_the_sum_stand_behind_the_convolution():
    assert ops(fused("Relu").model) == ["Conv", "Relu", "Conv"]
    assert ops(fused("Relu", added=True).model) == ["Conv", "Add", "Relu", "Conv"]
    state = fused("LeakyRelu", [0.25])
    leaky = next(node for node in state.model.graph.node if node.op_type == "LeakyRelu")
    assert leaky.attribute[0].name == "alpha" and leaky.attribute[0].f == 0.25
    clip = fused("Clip", [0.0, 6.0]).model
    (node,) = [node for node in clip.graph.node if node.op_type == "Clip"]
    assert [constants_of(clip)[name] for name in node.input[1:]] == [0, 6]


def test_an_activation_that_is_not_known():
    with pytest.raises(UnsupportedModelError, match="activation Swirl"):
        fused("Swirl")
