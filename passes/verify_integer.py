"""The promise: no floating-point tensor between the input and the heads, and a file that later verbs take."""

from __future__ import annotations

import onnx
from onnx import ModelProto

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.integer.inspect import float_tensors
from aqd_deploy.integer.reader import read_graph
from aqd_deploy.passes.graph import PassResult
from aqd_deploy.passes.inference import first_line


class VerifyInteger:
    """Checks the written model; changes nothing.

    1. It is a valid ONNX model whose element types and shapes fit together, function bodies included. Where
       they don't, a pass is wrong: RuntimeError.
    2. `float_tensors` is empty.
    3. `read_graph`, through which the compiler gets it, reads it.
    """

    name = "verify_integer"
    requires = "write_integer"
    ensures = "a file that loads; no float tensor between input and heads"

    def run(self, model: ModelProto) -> PassResult:
        """UnsupportedModelError that names the first float tensor, or what the dialect does not have."""
        try:
            onnx.checker.check_model(model)
            onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise RuntimeError(f"the integer file isn't a valid model: {first_line(error)}") from error
        left = float_tensors(model)
        if left:
            raise UnsupportedModelError(
                f"{len(left)} float tensors are left between input and heads", received=left[0]
            )
        read_graph(model)
        return PassResult(self.name, ["types and shapes fit", "0 float tensors between input and heads"])
