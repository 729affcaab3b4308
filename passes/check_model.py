"""Refuses, with the reason and the next command, what no later pass could lower."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import onnx
from onnx import ModelProto, TensorProto

from aqd_deploy.errors import ModelFileError, ShapeError, UnsupportedModelError
from aqd_deploy.integer.domain import DOMAIN
from aqd_deploy.integer.manifest import set_image_size
from aqd_deploy.integer.names import RESERVED_SUFFIX, is_text
from aqd_deploy.integer.types import element_name
from aqd_deploy.passes.graph import PassResult
from aqd_deploy.passes.inference import SHAPE_ADVICE, check_map, check_size, first_line
from aqd_deploy.passes.operators import OPERATORS, check_node, label_of
from aqd_deploy.schema import SchemaError, list_of, whole

SUPPORTED = tuple(OPERATORS)

_GROUP_NORM = (
    "it recomputes mean and variance from the tensor at inference, which has no integer form; "
    "AQD uses multi-level batch norm in its place"
)
_REASONS = {
    "GroupNormalization": _GROUP_NORM,
    "InstanceNormalization": "GroupNorm exported as InstanceNormalization: " + _GROUP_NORM,
    "LayerNormalization": "its statistics are computed at inference, which has no integer form",
    "Softmax": "its exponentials and division have no integer form in the dialect",
    "Sigmoid": "scores are decoded behind the integer program; end the file at the head outputs",
    "AveragePool": "the dialect has no average",
    "GlobalAveragePool": "the dialect has no average",
    "ConvTranspose": "the dialect upsamples by nearest neighbour only",
    "Gemm": "the dialect has convolutions only; export linear layers as 1x1 convolutions",
    "MatMul": "the dialect has convolutions only; export linear layers as 1x1 convolutions",
}
_RETRAIN = (
    "train with multi-level batch norm in the heads, then aqd-deploy export CHECKPOINT.pt -o m.qdq.onnx"
)
_NEXT = {
    "GroupNormalization": _RETRAIN,
    "InstanceNormalization": _RETRAIN,
    "Sigmoid": "aqd-deploy export CHECKPOINT.pt -o m.qdq.onnx, which ends at the heads",
}
MINIMUM_OPSET = 13
MAXIMUM_OPSET = onnx.defs.onnx_opset_version()
"""What a later opset says, nobody here has read."""

LONGEST_NAME = 230
"""An integer file's names have at most 250 characters, and lowering adds to them."""

_SIZES = list_of(whole(1))


class CheckModel:
    """The first pass; it works on the ONNX file.

    1. The file is for ONNX opset 13 or later, one that the installed onnx knows, and isn't already integer.
    2. Every operator is one the passes know; GroupNorm is named as such even where it was exported as
       InstanceNormalization between reshapes.
    3. Every attribute is one that the table of operators.py honours. This comes before onnx looks at the
       model: it computes with attributes, and its sentences are for those who wrote the file.
    4. It is a valid ONNX model with outputs, each named once, and with names that the integer file can keep.
    5. Every input has a static shape, or `shape` gives it, to the manifest as well; batch is 1; the image is
       8-bit.
    """

    name = "check_model"
    requires = "an ONNX model with float semantics"
    ensures = "known operators and attributes only, static input shapes, batch 1"

    def __init__(self, shape: Mapping[str, Sequence[int]] | Sequence[int] | None = None) -> None:
        self.shape = shape

    def run(self, model: ModelProto) -> PassResult:
        """Checks `model` and fixes its input shapes in place."""
        result = PassResult(self.name)
        self._check_opset(model)
        self._check_operators(model)
        for node in model.graph.node:
            check_node(node)
        self._check_validity(model)
        self._fix_shapes(model, result)
        return result

    def _check_opset(self, model: ModelProto) -> None:
        """Case 1."""
        domains = {entry.domain: entry.version for entry in model.opset_import}
        if DOMAIN in domains:
            raise UnsupportedModelError(
                "this file is integer ONNX already", next_command="aqd-deploy compile FILE -o PROGRAM.so"
            )
        version = max(domains.get("", 0), domains.get("ai.onnx", 0))
        if version < MINIMUM_OPSET:
            raise UnsupportedModelError(
                "the file's ONNX opset is too old",
                received=version,
                valid=f"opset {MINIMUM_OPSET} or later",
                next_command="onnx.version_converter, or export again with opset 21",
            )
        if version > MAXIMUM_OPSET:
            raise UnsupportedModelError(
                "the file's ONNX opset is newer than the installed onnx",
                received=version,
                valid=f"opset {MINIMUM_OPSET} to {MAXIMUM_OPSET}",
                next_command="pip install -U onnx, or export again with opset 21",
            )

    def _check_operators(self, model: ModelProto) -> None:
        """Case 2. Reasons that people know by name come first: a GroupNorm is not reported as an unknown
        Reshape.
        """
        unknown = [
            node
            for node in model.graph.node
            if node.domain not in ("", "ai.onnx") or node.op_type not in SUPPORTED
        ]
        unknown.sort(key=lambda node: node.op_type not in _REASONS)
        if not unknown:
            return
        node = unknown[0]
        op_type = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
        reason = _REASONS.get(node.op_type, "the integer dialect has no word for it")
        raise UnsupportedModelError(
            f"node {label_of(node)}: {op_type} can't be lowered: {reason}",
            received=op_type,
            valid=", ".join(SUPPORTED),
            next_command=_NEXT.get(
                node.op_type, "aqd-deploy inspect FILE, then export without this operator"
            ),
        )

    def _check_validity(self, model: ModelProto) -> None:
        """Case 4."""
        names = {value.name for value in [*model.graph.input, *model.graph.initializer]}
        names |= {name for node in model.graph.node for name in (node.name, *node.output)}
        for name in names:
            if not is_text(name, LONGEST_NAME) or name.endswith(RESERVED_SUFFIX):
                raise ModelFileError(
                    "the file has a name that can't be kept",
                    received=repr(name[:80]),
                    valid=f"up to {LONGEST_NAME} printable characters that do not end in {RESERVED_SUFFIX}",
                )
        outputs = Counter(value.name for value in model.graph.output)
        made = {name for node in model.graph.node for name in node.output}
        if not outputs:
            raise ModelFileError("the graph has no outputs", valid="at least one head output")
        for name, count in outputs.items():
            if count > 1:
                raise ModelFileError(f"output {name} is listed twice", valid="each output once")
            if name not in made:
                raise ModelFileError(f"output {name} is made by no node", valid="outputs that nodes compute")
        try:
            onnx.checker.check_model(model)
        except (onnx.checker.ValidationError, ValueError) as error:
            raise ModelFileError(f"the file isn't a valid ONNX model: {first_line(error)}") from error

    def _fix_shapes(self, model: ModelProto, result: PassResult) -> None:
        """Case 5."""
        constants = {tensor.name for tensor in model.graph.initializer}
        inputs = [value for value in model.graph.input if value.name not in constants]
        given = self._given_shapes(inputs)
        for value in inputs:
            dims = value.type.tensor_type.shape.dim
            if value.name in given:
                wanted = given[value.name]
                if len(wanted) != len(dims) and len(dims):
                    raise ShapeError(
                        f"input {value.name} has {len(dims)} dimensions",
                        received=list(wanted),
                        valid=f"{len(dims)} numbers",
                    )
                if len(dims) > 1 and dims[1].dim_value not in (0, wanted[1]):
                    raise ShapeError(
                        f"input {value.name} has {dims[1].dim_value} channels",
                        received=list(wanted),
                        valid="another batch-1 height and width only",
                    )
                value.type.CopyFrom(
                    onnx.helper.make_tensor_type_proto(value.type.tensor_type.elem_type, list(wanted))
                )
                result.changed.append(f"input {value.name}: shape set to {list(wanted)}")
            sizes = [d.dim_value if d.HasField("dim_value") else 0 for d in value.type.tensor_type.shape.dim]
            if len(sizes) != 4 or min(sizes) < 1:
                shown = [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
                raise ShapeError(
                    f"input {value.name} has a dynamic or impossible shape",
                    received=shown,
                    valid="four positive numbers: 1, channels, height, width",
                    next_command=SHAPE_ADVICE,
                )
            if sizes[0] != 1:
                wanted_shape = "x".join(map(str, [1, *sizes[1:]]))
                raise ShapeError(
                    f"input {value.name} has a batch of {sizes[0]}",
                    received=sizes,
                    valid="batch 1",
                    next_command=f"aqd-deploy lower FILE --shape {wanted_shape} -o OUT",
                )
            check_size(value.name, sizes)
            check_map(value.name, sizes)
            if value.name in given:
                set_image_size(model, value.name, *sizes[2:])
            kind = value.type.tensor_type.elem_type
            if kind not in (TensorProto.UINT8, TensorProto.INT8):
                raise UnsupportedModelError(
                    f"input {value.name} isn't an 8-bit image",
                    received=element_name(kind),
                    valid="uint8 pixels behind a DequantizeLinear that holds mean and std (docs/qdq-form.md)",
                    next_command="aqd-deploy export CHECKPOINT.pt -o m.qdq.onnx, which writes this form",
                )
        if given:
            _forget_shapes(model)

    def _given_shapes(self, inputs: Sequence[onnx.ValueInfoProto]) -> dict[str, Sequence[int]]:
        if self.shape is None:
            return {}
        if isinstance(self.shape, Mapping):
            names = [value.name for value in inputs]
            unknown = [name for name in self.shape if name not in names]
            if unknown:
                raise ShapeError(f"the model has no input {unknown[0]}", valid=", ".join(names))
            given = dict(self.shape)
        else:
            given = {value.name: self.shape for value in inputs}
        try:
            for name, sizes in given.items():
                _SIZES(sizes, name)
        except SchemaError as error:
            raise error.of("the given shape", ShapeError) from error
        return {name: [int(size) for size in sizes] for name, sizes in given.items()}


def _forget_shapes(model: ModelProto) -> None:
    """Drops inferred shapes, which belong to the old input shape."""
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
