"""Refuses, with the reason and the next command, what no later pass could lower."""

from __future__ import annotations

from collections import Counter

import onnx
from onnx import ModelProto, TensorProto

from aqd_deploy.errors import ModelFileError, ShapeError, UnsupportedModelError
from aqd_deploy.integer.domain import DOMAIN
from aqd_deploy.integer.names import RESERVED_SUFFIX
from aqd_deploy.integer.types import element_name
from aqd_deploy.passes.canonical.draft import Draft
from aqd_deploy.passes.canonical.input_shapes import inputs_of, sizes_of
from aqd_deploy.passes.canonical.islands import refuse_islands, unknown_operators
from aqd_deploy.passes.canonical.kept_names import LONGEST_NAME, can_be_kept
from aqd_deploy.passes.contract import Lowering, Pass, PassError, PassResult
from aqd_deploy.passes.inference import SHAPE_ADVICE, check_map, check_size, first_line
from aqd_deploy.passes.operators import check_node, label_of

MINIMUM_OPSET = 13
MAXIMUM_OPSET = onnx.defs.onnx_opset_version()
"""What a later opset says, nobody here has read."""


class CheckModel(Pass):
    """The last pass that works on the ONNX file; it changes nothing.

        image [1, 3, H, W] ── … ── y        image [1, 3, H, W] ── … ── y

    1. The file is for ONNX opset 13 or later, one that the installed onnx knows, and isn't already integer.
    2. Every operator is one the passes know, and products are of quantized numbers; the others are counted,
       all at once. GroupNorm is named as such even where it was exported as InstanceNormalization between
       reshapes.
    3. Every attribute is one that the table of operators.py honours. This comes before onnx looks at the
       model: it computes with attributes, and its sentences are for those who wrote the file.
    4. It is a valid ONNX model with outputs, each named once, and with names that the integer file can keep.
    5. Every input has a static shape; batch is 1; the image is 8-bit.
    """

    name = "check_model"

    def requires(self, state: Lowering) -> None:
        """That the graph is still to be read."""
        if state.is_read:
            raise PassError("the graph has been read, and would not see a change of the file")

    def ensures(self, state: Lowering) -> None:
        """Known operators, and inputs that are 8-bit images of batch 1 and static shape."""
        unknown = unknown_operators(list(state.model.graph.node))
        if unknown:
            raise PassError(f"{unknown[0].op_type} {label_of(unknown[0])} is left")
        for value in inputs_of(state.model):
            sizes = sizes_of(value)
            if len(sizes) != 4 or sizes[0] != 1 or min(sizes) < 1:
                raise PassError(f"input {value.name} has the shape {sizes}")

    def run(self, state: Lowering) -> PassResult:
        """Checks the file."""
        result, model = PassResult(self.name), state.model
        self._check_opset(model)
        refuse_islands(Draft(model))
        for node in model.graph.node:
            check_node(node)
        self._check_validity(model)
        self._check_shapes(model)
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

    def _check_validity(self, model: ModelProto) -> None:
        """Case 4."""
        names = {value.name for value in [*model.graph.input, *model.graph.initializer]}
        names |= {name for node in model.graph.node for name in (node.name, *node.output)}
        for name in names:
            if not can_be_kept(name):
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

    def _check_shapes(self, model: ModelProto) -> None:
        """Case 5."""
        for value in inputs_of(model):
            sizes = sizes_of(value)
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
            kind = value.type.tensor_type.elem_type
            if kind not in (TensorProto.UINT8, TensorProto.INT8):
                raise UnsupportedModelError(
                    f"input {value.name} isn't an 8-bit image",
                    received=element_name(kind),
                    valid="uint8 pixels behind a DequantizeLinear that holds mean and std "
                    "(docs/qdq-form.md), or floats that only a QuantizeLinear of one 8-bit scale reads",
                    next_command="quantize the input as well, as the other activations are",
                )
