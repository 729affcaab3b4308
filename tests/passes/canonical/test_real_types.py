"""float16 and bfloat16."""

import numpy as np
from canonical_meaning import canonical
from onnx import TensorProto
from small_files import FileBuilder, constants_of, ops


def half_file(opset=21):
    b = FileBuilder(opset=opset, ir_version=10, kind=TensorProto.FLOAT16)
    names = [b.constant("s", np.float16(0.1)), b.constant("z", np.uint8(120))]
    x = b.node("DequantizeLinear", [b.node("QuantizeLinear", ["image", *names]), *names])
    w = b.node(
        "DequantizeLinear",
        [b.constant("w", np.ones((4, 4, 1, 1), np.int8)), b.constant("ws", np.float16(0.3))],
    )
    x = b.node("Conv", [x, w, b.constant("bias", np.arange(4, dtype=np.float16))])
    return b, x


def test_case_1_constants_keep_their_value():
    b, x = half_file()
    constants = constants_of(canonical(b.model(x)).model)
    assert constants["ws"].dtype == np.float32 and constants["ws"] == np.float32(np.float16(0.3))


def test_case_2_casts_disappear():
    b = FileBuilder()
    x = b.node("Cast", [b.conv(b.quantize("image"))], to=TensorProto.FLOAT16)
    y = b.conv(b.quantize(b.node("Cast", [x], to=TensorProto.FLOAT), 0.5))
    assert ops(b.rewritten(y).model) == ["Conv", "Conv"]


def test_case_3_inputs_outputs_and_quantizers_are_float32():
    b, x = half_file(23)
    b.nodes[1].attribute.add(name="output_dtype", i=TensorProto.FLOAT16, type=2)
    state = canonical(b.model(x))
    assert state.model.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert state.manifest == {} and state.model.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    assert all(not node.attribute for node in state.model.graph.node if node.op_type == "DequantizeLinear")
