"""QOperator files: operators that take codes, scales and zero points, and give codes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from onnx import NodeProto

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.passes.canonical.draft import STANDARD, Draft, attribute
from aqd_deploy.passes.canonical.microsoft import MICROSOFT
from aqd_deploy.passes.operators import label_of

_ONE_OPERAND = {
    "QLinearSigmoid": "Sigmoid",
    "QLinearLeakyRelu": "LeakyRelu",
    "QLinearGlobalAveragePool": "GlobalAveragePool",
    "QLinearAveragePool": "AveragePool",
    "QLinearReduceMean": "ReduceMean",
    "QLinearSoftmax": "Softmax",
}
_TWO_OPERANDS = {"QLinearAdd": "Add", "QLinearMul": "Mul", "QLinearMatMul": "MatMul"}
_OWN = ("channels_last", "opset")
"""Attributes of com.microsoft's operators that ONNX's do not have."""


def take_qlinear_apart(draft: Draft) -> None:
    """Each as DequantizeLinear, the operator on reals, QuantizeLinear.

        q ── QLinearAdd ── y        q ── DequantizeLinear ── Add ── QuantizeLinear ── y
        p ───┘                      p ── DequantizeLinear ───┘

    1. QLinearConv; its int32 bias is dequantized with x's scale times the weights', in float32, which is also
       how onnxruntime writes a QDQ file.
    2. QGemm: as QLinearConv; without a scale of the output it ends in reals.
    3. QLinearAdd, QLinearMul and QLinearMatMul of two tensors.
    4. QLinearSigmoid, QLinearLeakyRelu, QLinearGlobalAveragePool, QLinearAveragePool, QLinearReduceMean and
       QLinearSoftmax of one.
    5. QLinearConcat of any number.
    6. UnsupportedModelError for channels_last, which onnxruntime's own optimizations make.
    """
    makers: dict[str, Callable[[_Apart], None]] = {
        "QLinearConv": _conv,
        "QGemm": _gemm,
        "QLinearConcat": _concat,
        **{name: _operands(1, op) for name, op in _ONE_OPERAND.items()},
        **{name: _operands(2, op) for name, op in _TWO_OPERANDS.items()},
    }

    def rule(node: NodeProto) -> list[NodeProto] | None:
        if node.op_type not in makers or node.domain not in (*STANDARD, MICROSOFT):
            return None
        if attribute(node, "channels_last", 0):
            raise UnsupportedModelError(
                f"node {label_of(node)}: {node.op_type} with channels_last",
                valid="channels in front of height and width",
                next_command="export the file again without onnxruntime's optimizations",
            )
        apart = _Apart(draft, node)
        makers[node.op_type](apart)
        draft.changed.append(f"{label_of(node)}: {node.op_type} taken apart")
        return apart.made

    draft.rewrite(rule)


class _Apart:
    """The nodes that one node becomes."""

    def __init__(self, draft: Draft, node: NodeProto) -> None:
        self.draft, self.node = draft, node
        self.inputs = list(node.input)
        self.made: list[NodeProto] = []

    def add(self, op_type: str, inputs: Sequence[str], output: str = "", axis: int | None = None) -> str:
        """Adds a node, returns its output."""
        known = {} if axis is None else {"axis": axis}
        self.made.append(self.draft.node(op_type, inputs, output, like=self.node, **known))
        return self.made[-1].output[0]

    def real(self, first: int, axis: int | None = None) -> str:
        """The reals of the codes, scale and zero point from input `first` on."""
        triple = self.inputs[first : first + 3]
        if len(triple) < 2:
            raise self.damaged()
        return self.add("DequantizeLinear", triple, axis=axis)

    def operator(
        self, op_type: str, inputs: Sequence[str], ends: Sequence[str], dropped: Sequence[str] = _OWN
    ) -> None:
        """The operator with the node's attributes; quantized by `ends` (scale, zero point) if there are."""
        ends = [name for name in ends if name]
        output = self.add(op_type, inputs, "" if ends else self.node.output[0])
        self.made[-1].attribute.extend(each for each in self.node.attribute if each.name not in dropped)
        if ends:
            self.add("QuantizeLinear", [output, *ends], self.node.output[0])

    def bias(self, name: str, x_scale: str, w_scale: str, factor: float = 1.0) -> str:
        """An int32 bias in reals."""
        scales = [self.draft.array(each) for each in (x_scale, w_scale)]
        if scales[0] is None or scales[1] is None or scales[0].size != 1 or not scales[1].size:
            raise self.damaged("one scale of x and scales of the weights, all constants")
        product = np.asarray(scales[0], np.float32) * np.asarray(scales[1], np.float32) * np.float32(factor)
        scale = self.draft.constant(
            f"{name}_scale", product.reshape(-1) if product.size > 1 else product.reshape(())
        )
        return self.add("DequantizeLinear", [name, scale], axis=0 if product.size > 1 else None)

    def is_per_channel(self, scale: str) -> bool:
        """Whether a scale is one of several."""
        array = self.draft.array(scale)
        return array is not None and array.size > 1

    def damaged(
        self, valid: str = "codes, a scale and a zero point for each operand and the output"
    ) -> UnsupportedModelError:
        """The error of a node with the wrong inputs."""
        return UnsupportedModelError(
            f"node {label_of(self.node)}: {self.node.op_type} with {len(self.inputs)} inputs", valid=valid
        )


def _conv(apart: _Apart) -> None:
    """Case 1."""
    inputs = apart.inputs
    if len(inputs) not in (8, 9):
        raise apart.damaged()
    operands = [apart.real(0), apart.real(3, 0 if apart.is_per_channel(inputs[4]) else None)]
    if len(inputs) == 9 and inputs[8]:
        operands.append(apart.bias(inputs[8], inputs[1], inputs[4]))
    apart.operator("Conv", operands, inputs[6:8])


def _gemm(apart: _Apart) -> None:
    """Case 2."""
    inputs, node = apart.inputs, apart.node
    if not 6 <= len(inputs) <= 9:
        raise apart.damaged()
    axis = 0 if attribute(node, "transB", 0) else 1
    operands = [apart.real(0), apart.real(3, axis if apart.is_per_channel(inputs[4]) else None)]
    if len(inputs) > 6 and inputs[6]:
        operands.append(apart.bias(inputs[6], inputs[1], inputs[4], attribute(node, "alpha", 1.0)))
    apart.operator("Gemm", operands, inputs[7:9])


def _concat(apart: _Apart) -> None:
    """Case 5."""
    if len(apart.inputs) < 5 or len(apart.inputs) % 3 != 2:
        raise apart.damaged()
    apart.operator("Concat", [apart.real(i) for i in range(2, len(apart.inputs), 3)], apart.inputs[:2])


def _operands(count: int, op_type: str) -> Callable[[_Apart], None]:
    """Cases 3 and 4."""

    def make(apart: _Apart) -> None:
        if not 3 * count + 1 <= len(apart.inputs) <= 3 * count + 2:
            raise apart.damaged()
        apart.operator(op_type, [apart.real(3 * i) for i in range(count)], apart.inputs[3 * count :])

    return make
