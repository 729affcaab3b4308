"""Hand-written foreign files of a few nodes, for the tests of single rewrites."""

from __future__ import annotations

import numpy as np
import onnx
from canonical_meaning import assert_same_meaning
from onnx import TensorProto, helper, numpy_helper

ZERO, MIDDLE = np.uint8(0), np.uint8(120)


class FileBuilder:
    """Nodes and constants of a small file; methods return tensor names."""

    def __init__(
        self, opset: int = 17, shape=(1, 4, 6, 6), kind=TensorProto.FLOAT, ir_version: int = 8
    ) -> None:
        self.opset, self.ir_version = opset, ir_version
        self.rng = np.random.default_rng(7)
        self.inputs = [helper.make_tensor_value_info("image", kind, shape)]
        self.image = shape
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.functions: list[onnx.FunctionProto] = []
        self.domains: set[str] = set()

    def constant(self, name: str, values) -> str:
        """An initializer."""
        self.constants.append(numpy_helper.from_array(np.asarray(values, order="C"), name))
        return name

    def node(self, op: str, inputs, *outputs: str, domain: str = "", **attributes) -> str:
        """A node without a name; its first output."""
        outputs = outputs or (f"t{len(self.nodes)}",)
        self.nodes.append(helper.make_node(op, inputs, outputs, domain=domain, **attributes))
        self.domains.add(domain)
        return outputs[0]

    def scale(self, step: float, zero=ZERO) -> list[str]:
        """Constants of a quantizer."""
        count = len(self.constants)
        return [self.constant(f"s{count}", np.float32(step)), self.constant(f"z{count}", zero)]

    def quantize(self, x: str, step: float = 0.1, zero=MIDDLE) -> str:
        """QuantizeLinear, DequantizeLinear."""
        names = self.scale(step, zero)
        return self.node("DequantizeLinear", [self.node("QuantizeLinear", [x, *names]), *names])

    def weights(self, shape, axis: int | None = None) -> str:
        """Dequantized int8 weights, with a scale for each element along `axis`."""
        count = len(self.constants)
        values = self.constant(f"w{count}", self.rng.integers(-127, 128, shape).astype(np.int8))
        steps = (
            np.float32(0.01)
            if axis is None
            else self.rng.uniform(0.005, 0.02, shape[axis]).astype(np.float32)
        )
        scale = self.constant(f"ws{count}", steps)
        return self.node("DequantizeLinear", [values, scale], **({} if axis is None else {"axis": axis}))

    def conv(self, x: str, out: int = 4, inside: int = 4) -> str:
        """A 1x1 convolution of quantized operands."""
        return self.node("Conv", [x, self.weights((out, inside, 1, 1), 0)])

    def model(self, *outputs: str) -> onnx.ModelProto:
        """The checked file."""
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "small", self.inputs, values, self.constants)
        domains = self.domains | {function.domain for function in self.functions}
        imports = [helper.make_opsetid("", self.opset)]
        imports += [helper.make_opsetid(domain, 1) for domain in sorted(domains - {""})]
        model = helper.make_model(
            graph, opset_imports=imports, ir_version=self.ir_version, functions=self.functions
        )
        inferred = onnx.shape_inference.infer_shapes(model)
        known = {value.name: value for value in (*inferred.graph.output, *inferred.graph.value_info)}
        for value in model.graph.output:
            found = known.get(value.name)
            rank = found is not None and found.type.tensor_type.HasField("shape")
            value.type.CopyFrom(
                found.type if rank else helper.make_tensor_type_proto(TensorProto.FLOAT, [None] * 4)
            )
        return model

    def images(self) -> dict[str, np.ndarray]:
        """An input within [-2, 2], or codes."""
        kind = helper.tensor_dtype_to_np_dtype(self.inputs[0].type.tensor_type.elem_type)
        values = self.rng.uniform(-2, 2, self.image)
        return {"image": values.astype(kind) if kind.kind == "f" else (values * 50 + 100).astype(kind)}

    def rewritten(self, *outputs: str):
        """The state behind the first pass, which means the same."""
        return assert_same_meaning(self.model(*outputs), self.images())


def ops(model: onnx.ModelProto) -> list[str]:
    """The operators but for quantizers, in order."""
    return [n.op_type for n in model.graph.node if n.op_type not in ("QuantizeLinear", "DequantizeLinear")]


def constants_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """The initializers."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
