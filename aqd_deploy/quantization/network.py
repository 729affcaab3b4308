"""A float network in the form that the passes read, and its layers."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from aqd_deploy.errors import CheckpointError, ModelFileError, ShapeError, UnsupportedModelError
from aqd_deploy.integer.domain import DOMAIN
from aqd_deploy.integer.types import element_name
from aqd_deploy.passes.canonical.draft import Draft, attribute, is_standard
from aqd_deploy.passes.canonical.input_shapes import inputs_of, set_shapes, sizes_of
from aqd_deploy.passes.canonical.rewrites import OF_FLOAT_FILES
from aqd_deploy.passes.contract import PassResult, Shape
from aqd_deploy.passes.inference import first_line
from aqd_deploy.passes.operators import label_of
from aqd_deploy.quantization.batch_norm import fold_batch_norms
from aqd_deploy.quantization.channel_slopes import take_channel_slopes_apart

INPUT_TYPES = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float32",
    TensorProto.UINT8: "uint8",
    TensorProto.INT8: "int8",
}
"""What an input of a file may hold, and what it is fed with."""
PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_NEXT_SHAPE = "the same command with --shape 1x3x320x320"
_QUANTIZED = (
    "aqd-deploy lower FILE -o OUT, or where layers of it are float "
    "aqd-deploy quantize FILE --complete --calibration DIR -o OUT"
)


@dataclass(frozen=True)
class Layer:
    """A convolution or matrix product with constant weights. `axis` is that of the output channels in the
    array `weight`; `name` is the node's, `output` its tensor.
    """

    name: str
    op_type: str
    input: str
    weight: str
    bias: str | None
    output: str
    axis: int
    group: int = 1


class Network:
    """A model, its layers in topological order, and its constants. The model is never changed: what changes
    weights makes another network.
    """

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self._readers = Counter(name for node in model.graph.node for name in set(node.input))
        self.layers = tuple(
            layer
            for node in model.graph.node
            if (layer := layer_of(node, lambda name: name in self._tensors, self._rank)) is not None
        )

    @classmethod
    def of(cls, model: ModelProto, *, shape: Shape = None, fold: bool = True) -> Network:
        """A float ONNX model, which stays unchanged, with static shapes (`shape`, where the file leaves them
        open) and, with `fold`, batch norms in the weights in front of them.

        Raises ModelFileError for a file that isn't valid, UnsupportedModelError for one that is quantized
        already or has no layers, ShapeError for open shapes or a batch, CheckpointError for weights that
        aren't finite.
        """
        model = canonical_file(model, shape)
        _refuse_quantized(model)
        if fold:
            draft = Draft(model)
            fold_batch_norms(draft)
            draft.remove_dead()
            model = draft.write()
        network = cls(model)
        if not network.layers:
            raise UnsupportedModelError(
                "the network has no layer to quantize", received=f"{len(model.graph.node)} nodes",
                valid=f"{', '.join(PRODUCTS)} with constant weights",
            )  # fmt: skip
        network.check_finite()
        return network

    def array(self, name: str) -> np.ndarray:
        """A constant's values."""
        return numpy_helper.to_array(self._tensors[name])

    def is_constant(self, name: str) -> bool:
        """Whether a tensor is an initializer."""
        return name in self._tensors

    def readers_of(self, name: str) -> int:
        """How many nodes read a tensor."""
        return self._readers[name]

    def with_arrays(self, arrays: Mapping[str, np.ndarray]) -> Network:
        """The same network with other values of these constants."""
        model = copy.deepcopy(self.model)
        for tensor in model.graph.initializer:
            if tensor.name in arrays:
                tensor.CopyFrom(
                    numpy_helper.from_array(np.asarray(arrays[tensor.name], np.float32), tensor.name)
                )
        return Network(model)

    def check_finite(self) -> None:
        """CheckpointError that names the first layer with NaN or infinity."""
        for layer in self.layers:
            for name in (layer.weight, layer.bias):
                if name is not None and name in self._tensors and not np.isfinite(self.array(name)).all():
                    raise CheckpointError(
                        f"the layer {layer.name} has a number that isn't finite", received=name,
                        valid="finite numbers",
                        next_command="retrain or repair this layer, then export it again",
                    )  # fmt: skip

    def _rank(self, name: str) -> int:
        return len(self._tensors[name].dims)


def canonical_file(model: ModelProto, shape: Shape = None) -> ModelProto:
    """A copy of a float or quantized ONNX file after the rewrites that do not ask for quantizers; every node
    has a name of its own. Raises ModelFileError and ShapeError.
    """
    model = copy.deepcopy(model)
    if any(entry.domain == DOMAIN for entry in model.opset_import):
        raise UnsupportedModelError(
            "this file is integer ONNX already", next_command="aqd-deploy compile FILE -o PROGRAM.so"
        )
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise ModelFileError(f"the file isn't a valid ONNX model: {first_line(error)}") from error
    set_shapes(model, shape, PassResult("shapes"))
    draft = Draft(model)
    for rewrite in OF_FLOAT_FILES:
        rewrite(draft)
    take_channel_slopes_apart(draft)
    draft.remove_dead()
    model = draft.write()
    check_inputs(model)
    counts = Counter(node.name for node in model.graph.node)
    for node in model.graph.node:
        if not node.name or counts[node.name] > 1:
            node.name = label_of(NodeProto(output=node.output, op_type=node.op_type))
    return model


def layer_of(
    node: NodeProto, is_constant: Callable[[str], bool], rank_of: Callable[[str], int]
) -> Layer | None:
    """The layer that a node is, None for another node: one whose weights, not whose input, `is_constant`."""
    if not is_standard(node, *PRODUCTS) or is_constant(node.input[0]) or not is_constant(node.input[1]):
        return None
    axes = {
        "Conv": 0,
        "ConvTranspose": 1,
        "Gemm": 0 if attribute(node, "transB", 0) else 1,
        "MatMul": rank_of(node.input[1]) - 1,
    }
    bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
    return Layer(
        label_of(node), node.op_type, node.input[0], node.input[1], bias, node.output[0], axes[node.op_type],
        attribute(node, "group", 1),
    )  # fmt: skip


def _refuse_quantized(model: ModelProto) -> None:
    found = [node for node in model.graph.node if is_standard(node, "QuantizeLinear")]
    inputs = {value.name for value in inputs_of(model)}
    found += [
        node
        for node in model.graph.node
        if is_standard(node, "DequantizeLinear") and node.input[0] not in inputs
    ]
    if found:
        raise UnsupportedModelError(
            "the file is quantized already",
            received=f"{len(found)} quantizers, the first {label_of(found[0])}",
            valid="a float network",
            next_command=_QUANTIZED,
        )


def check_inputs(model: ModelProto) -> None:
    """ShapeError for inputs of open sizes or a batch, UnsupportedModelError for those that are no images."""
    for value in inputs_of(model):
        sizes = sizes_of(value)
        if not sizes or min(sizes) < 1:
            shown = [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
            raise ShapeError(f"input {value.name} has a dynamic or impossible shape", received=shown,
                             valid="positive numbers", next_command=_NEXT_SHAPE)  # fmt: skip
        if sizes[0] != 1:
            raise ShapeError(f"input {value.name} has a batch of {sizes[0]}", received=sizes,
                             valid="batch 1", next_command=_NEXT_SHAPE)  # fmt: skip
        kind = value.type.tensor_type.elem_type
        if kind not in INPUT_TYPES:
            raise UnsupportedModelError(
                f"input {value.name} is neither an image of floats nor one of 8 bits",
                received=element_name(kind), valid=", ".join(map(element_name, INPUT_TYPES)),
            )  # fmt: skip
