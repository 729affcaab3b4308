"""The promise: no floating-point tensor between the input and the heads."""

from __future__ import annotations

import onnx
from onnx import ModelProto

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.integer.inspect import float_tensors
from aqd_deploy.passes.graph import PassResult


class VerifyInteger:
    """Checks the written model; changes nothing.

    1. It is a valid ONNX model.
    2. `float_tensors` is empty.
    """

    name = "verify_integer"
    requires = "write_integer"
    ensures = "no float tensor between input and heads"

    def run(self, model: ModelProto) -> PassResult:
        """UnsupportedModelError that names the first float tensor."""
        onnx.checker.check_model(model)
        left = float_tensors(model)
        if left:
            raise UnsupportedModelError(
                f"{len(left)} float tensors are left between input and heads", received=left[0]
            )
        return PassResult(self.name, ["0 float tensors between input and heads"])
