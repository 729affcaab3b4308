"""Foreign files with one to three things in them changed at random."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import onnx
from onnx import helper, numpy_helper

OPERATORS = (
    *(
        "Relu",
        "Add",
        "Reshape",
        "Transpose",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Split",
        "Gemm",
        "MatMul",
        "Shape",
    ),
    *(
        "ReduceMean",
        "QLinearAdd",
        "QLinearConv",
        "QGemm",
        "Quant",
        "BipolarQuant",
        "Trunc",
        "FusedConv",
        "Slice",
    ),
    *(
        "Gather",
        "Concat",
        "Sum",
        "Dropout",
        "Softmax",
        "GlobalAveragePool",
        "Cast",
        "ConstantOfShape",
        "Expand",
    ),
)


def a_node_less(model: onnx.ModelProto, dice: random.Random) -> None:
    del model.graph.node[dice.randrange(len(model.graph.node))]


def another_operand(model: onnx.ModelProto, dice: random.Random) -> None:
    node = dice.choice(model.graph.node)
    names = ["", dice.choice(model.graph.initializer).name, dice.choice(model.graph.node).output[0]]
    node.input[dice.randrange(len(node.input))] = dice.choice(names)


def fewer_operands(model: onnx.ModelProto, dice: random.Random) -> None:
    node = dice.choice(model.graph.node)
    del node.input[dice.randrange(len(node.input)) :]


def another_attribute(model: onnx.ModelProto, dice: random.Random) -> None:
    node = dice.choice([node for node in model.graph.node if node.attribute])
    each = dice.choice(node.attribute)
    if each.type == onnx.AttributeProto.INT:
        each.i = dice.choice([0, 1, -1, 2, 5, 100, -100, 1 << 40])
    elif each.type == onnx.AttributeProto.INTS and each.ints:
        each.ints[dice.randrange(len(each.ints))] = dice.choice([0, -1, 1, 2, 7, 1 << 40])
    else:
        node.attribute.remove(each)


def another_constant(model: onnx.ModelProto, dice: random.Random) -> None:
    tensor = dice.choice(model.graph.initializer)
    array = numpy_helper.to_array(tensor)
    with np.errstate(all="ignore"):
        kind = dice.choice(
            [array.dtype, np.float32, np.int8, np.uint8, np.int32, np.int64, np.float16, np.float64]
        )
        array = array.astype(kind)
    array = dice.choice(
        [array, array.reshape(-1), array[None, None], array.ravel()[:1], array.ravel()[:0], array.T]
    )
    if array.size and dice.random() < 0.5:
        array = array.copy()
        odd = [np.nan, np.inf, -1.0, 0.0] if array.dtype.kind == "f" else [0, 1, 127]
        array.ravel()[dice.randrange(array.size)] = dice.choice(odd)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))


def another_operator(model: onnx.ModelProto, dice: random.Random) -> None:
    dice.choice(model.graph.node).op_type = dice.choice(OPERATORS)


def another_domain(model: onnx.ModelProto, dice: random.Random) -> None:
    dice.choice(model.graph.node).domain = dice.choice(["", "com.microsoft", "qonnx.custom_op.general", "x"])


def another_opset(model: onnx.ModelProto, dice: random.Random) -> None:
    model.opset_import[0].version = dice.choice([9, 10, 11, 12, 13, 15, 18, 19, 21, 22, 25])


def another_output(model: onnx.ModelProto, dice: random.Random) -> None:
    name = dice.choice(dice.choice(model.graph.node).output)
    shape = dice.choice([None, [1, 2], [1, 3, 4, 4]])
    model.graph.output.append(helper.make_tensor_value_info(name, dice.choice([1, 2, 3]), shape))


def another_size(model: onnx.ModelProto, dice: random.Random) -> None:
    dims = model.graph.input[0].type.tensor_type.shape.dim
    dims[dice.randrange(len(dims))].dim_value = dice.choice([0, 1, 2, 5, 33, 1_000_000])


DAMAGES: tuple[Callable[[onnx.ModelProto, random.Random], None], ...] = (
    a_node_less,
    another_operand,
    fewer_operands,
    another_attribute,
    another_constant,
    another_operator,
    another_domain,
    another_opset,
    another_output,
    another_size,
)


def damaged(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """A copy with one to three damages."""
    dice = random.Random(seed)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for _ in range(dice.choice([1, 1, 2, 3])):
        damage = dice.choice(DAMAGES)
        if all(node.input for node in copy.graph.node) and len(copy.graph.node) > 2:
            damage(copy, dice)
    return copy
