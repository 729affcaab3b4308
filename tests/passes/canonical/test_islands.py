"""Everything that would stay float inside, in one sentence."""

import numpy as np
import pytest
from small_files import FileBuilder

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.passes.pipeline import lower


def refused(b, output):
    with pytest.raises(UnsupportedModelError) as caught:
        lower(b.model(b.conv(b.quantize(output, 0.5))))
    return caught.value


def test_nodes_are_counted():
    b = FileBuilder()
    x = b.conv(b.quantize("image"))
    for _ in range(3):
        x = b.node("Softmax", [x], axis=1)
    x = b.node("CumSum", [x, b.constant("axis", np.array(1))])
    error = refused(b, x)
    assert error.received == "Softmax ×3, CumSum"
    assert str(error).startswith(
        "4 nodes would stay float: Softmax ×3, CumSum; node t4: Softmax can't be lowered"
    )
    assert "behind the last quantizer may be float" in error.next_command


def test_convolutions_that_nothing_quantized():
    b = FileBuilder()
    x = b.conv(b.conv(b.quantize("image")))
    real = b.constant("real", np.ones((4, 4, 1, 1), np.float32))
    error = refused(b, b.node("Conv", [b.quantize(x, 0.5), real]))
    assert error.received == "Conv ×2" and "the first at t5" in str(error)


def test_a_matrix_product_of_two_activations():
    b = FileBuilder()
    x = b.quantize(b.conv(b.quantize("image")), 0.5)
    assert "one operand has to be a matrix of constants" in str(refused(b, b.node("MatMul", [x, x])))
