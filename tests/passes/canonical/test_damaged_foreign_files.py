"""A damaged foreign file is lowered to what it means or refused in a sentence; nothing else comes of it."""

from collections import Counter

import numpy as np
import pytest
from damaged_files import damaged
from small_files import FileBuilder

from aqd_deploy.errors import AqdError
from aqd_deploy.passes.pipeline import lower

MICROSOFT, QONNX = "com.microsoft", "qonnx.custom_op.general"


def everything():
    """A file with something for most rewrites."""
    b = FileBuilder()
    b.domains |= {MICROSOFT, QONNX}
    b.constant("range", np.float32(12.75))
    b.node("Div", ["range", b.constant("count", np.float32(255))], "step")
    zero = b.constant("zero", np.uint8(120))
    x = b.node("DequantizeLinear", [b.node("QuantizeLinear", ["image", "step", zero]), "step", zero])
    x = b.quantize(b.node("Dropout", [b.conv(x)]), 0.5)
    b.node("Split", [x], "left", "right", axis=1)
    x = b.quantize(b.node("Add", ["left", "right"]), 0.25)
    told = [b.constant(f"q{i}", np.float32(v)) for i, v in enumerate((0.25, 0, 4))]
    x = b.node("Quant", [b.conv(x, 4, 2), *told], domain=QONNX, signed=1, narrow=1)
    ends = b.scale(0.3, np.uint8(100))
    codes = b.node("QuantizeLinear", [x, *ends])
    codes = b.node("QLinearAdd", [codes, *ends, codes, *ends, *ends], domain=MICROSOFT)
    x = b.node("DequantizeLinear", [codes, *ends])
    y = b.quantize(b.node("Flatten", [b.node("GlobalAveragePool", [x])]), 0.1)
    y = b.node("Gemm", [y, b.node("Transpose", [b.weights((4, 5), 1)], perm=[1, 0])], transB=1)
    return b.model(b.node("Softmax", [y], axis=1), x)


@pytest.mark.parametrize("start", range(0, 600, 150))
def test_damages_are_refused_in_a_sentence(start):
    model = everything()
    lower(model)
    outcomes = Counter()
    for seed in range(start, start + 150):
        try:
            lower(damaged(model, seed))
            outcomes["lowered"] += 1
        except AqdError as error:
            assert error.what
            outcomes["refused"] += 1
    assert outcomes["refused"] > 75 and outcomes["lowered"] > 5
