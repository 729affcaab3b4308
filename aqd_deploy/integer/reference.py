"""The reference: onnxruntime on the CPU runs an ONNX file as it is."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, helper
from onnxruntime.capi import onnxruntime_pybind11_state as _state

from aqd_deploy.errors import ModelFileError, ShapeError, line_of
from aqd_deploy.integer.files import load_onnx
from aqd_deploy.integer.saturation import saturates, with_unsigned_weights

_REFUSALS = (_state.Fail, _state.InvalidArgument, _state.InvalidGraph, _state.NotImplemented,
             _state.RuntimeException)  # fmt: skip


class ReferenceRunner:
    """Runs integer (or QDQ) ONNX; inputs and outputs are dicts of numpy arrays by the file's own names."""

    def __init__(
        self,
        model: ModelProto | str | os.PathLike[str],
        threads: int | None = None,
        *,
        with_intermediates: Sequence[str] | bool = False,
        unsigned_weights: bool | None = None,
        as_written: bool = False,
    ) -> None:
        """`with_intermediates`: names of further tensors to return, or True for all of the graph's nodes'
        outputs.

        `unsigned_weights` runs convolutions with weights that no CPU saturates (see `integer.saturation`); by
        default where this CPU needs it. `as_written` is for QDQ files (`keep_arithmetic`). Raises
        ModelFileError for a file or model that onnxruntime can't load.
        """
        proto = load_onnx(Path(model)) if isinstance(model, (str, os.PathLike)) else model
        if unsigned_weights or (unsigned_weights is None and saturates()):
            proto = with_unsigned_weights(proto)
        if with_intermediates:
            proto = _with_outputs(proto, with_intermediates)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if as_written:
            keep_arithmetic(options)
        if threads is not None:
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
        try:
            self._session = onnxruntime.InferenceSession(
                proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise ModelFileError("onnxruntime can't load the model", received=line_of(error)) from error
        self.inputs = {i.name: (tuple(i.shape), _numpy_type(i)) for i in self._session.get_inputs()}
        self.outputs = {o.name: tuple(o.shape) for o in self._session.get_outputs()}

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """All outputs by name; ShapeError for a missing input or one of another shape, ModelFileError for a
        model that onnxruntime refuses only when it runs.
        """
        for name, (shape, _) in self.inputs.items():
            if name not in inputs:
                raise ShapeError(f"input {name} is missing", received=", ".join(inputs) or "no inputs")
            if tuple(inputs[name].shape) != shape:
                raise ShapeError(
                    f"input {name} has another shape",
                    received=list(inputs[name].shape),
                    valid=str(list(shape)),
                )
        try:
            values = self._session.run(list(self.outputs), {name: inputs[name] for name in self.inputs})
        except _REFUSALS as error:
            raise ModelFileError("onnxruntime can't run the model", received=line_of(error)) from error
        return dict(zip(self.outputs, values, strict=True))


def keep_arithmetic(options: onnxruntime.SessionOptions) -> None:
    """Makes a session compute a QDQ file as it is written, in floats.

    onnxruntime's optimizations put operators on codes, which round otherwise, scale weights by what follows a
    convolution, and sum in the order of other kernels: the last bits of a float decide which code a
    quantizer writes, and at 4 bits the AP of a file and its program then lay 0.2 points apart.
    """
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL


def _numpy_type(value: Any) -> str:
    """The numpy dtype of an input; ModelFileError where it is not a tensor of numbers."""
    names = {"tensor(float)": "float32", "tensor(double)": "float64"}
    name = names.get(value.type, value.type.removeprefix("tensor(").removesuffix(")"))
    try:
        return str(np.dtype(name))
    except TypeError as error:
        raise ModelFileError(
            f"the input {value.name} is not a tensor of numbers", received=value.type
        ) from error


def _with_outputs(model: ModelProto, names: Sequence[str] | bool) -> ModelProto:
    """A copy of the model that also returns intermediate tensors."""
    wider = onnx.ModelProto()
    wider.CopyFrom(model)
    present = {value.name for value in wider.graph.output}
    every = [name for node in wider.graph.node for name in node.output if name]
    wanted = every if isinstance(names, bool) else list(names)
    wider.graph.output.extend(helper.make_empty_tensor_value_info(n) for n in wanted if n not in present)
    return wider
