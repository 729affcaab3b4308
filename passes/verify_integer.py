"""The promise: no floating-point tensor between the input and the heads, and a file that later verbs take."""

from __future__ import annotations

import onnx

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.integer.inspect import float_tensors
from aqd_deploy.integer.reader import read_graph
from aqd_deploy.passes.contract import Lowering, Pass, PassError, PassResult
from aqd_deploy.passes.inference import first_line


class VerifyInteger(Pass):
    """Checks the written model; changes nothing.

        image (uint8) ── … ── head (int32): every tensor between them is an integer

    1. It is a valid ONNX model whose element types and shapes fit together, function bodies included. Where
       they don't, a pass is wrong: PassError.
    2. `float_tensors` is empty.
    3. `read_graph`, through which the compiler gets it, reads it.
    """

    name = "verify_integer"

    def requires(self, state: Lowering) -> None:
        """A written file."""
        if not state.is_written:
            raise PassError("no integer file was written")

    def ensures(self, state: Lowering) -> None:
        """The outputs of the QDQ file. Without that there are integers in front of them, `run` fails."""
        names = {value.name for value in state.model.graph.output}
        if names != {value.name for value in state.integer.graph.output}:
            raise PassError(f"the outputs aren't those of the QDQ file: {', '.join(sorted(names))}")

    def run(self, state: Lowering) -> PassResult:
        """UnsupportedModelError that names the first float tensor, or what the dialect does not have."""
        model = state.integer
        try:
            onnx.checker.check_model(model)
            onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise PassError(
                f"{self.name}: the integer file isn't a valid model: {first_line(error)}"
            ) from error
        left = float_tensors(model)
        if left:
            raise UnsupportedModelError(
                f"{len(left)} float tensors are left between input and heads", received=left[0]
            )
        read_graph(model)
        return PassResult(self.name, ["types and shapes fit", "0 float tensors between input and heads"])
