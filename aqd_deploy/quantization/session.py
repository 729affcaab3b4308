"""A network in onnxruntime, with any of its tensors as outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import ModelProto

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.passes.inference import first_line


class Session:
    """Runs a model up to the tensors `wanted`, and computes nothing else."""

    def __init__(self, model: ModelProto, wanted: Sequence[str]) -> None:
        import onnxruntime

        part = ModelProto()
        part.CopyFrom(model)
        del part.graph.output[:], part.graph.value_info[:]
        part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # The floats between quantizers, where onnxruntime would put operators on codes that round otherwise.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        self._names = list(wanted)
        try:
            self._session = onnxruntime.InferenceSession(
                part.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except (RuntimeError, ValueError) as error:
            raise UnsupportedModelError(
                f"onnxruntime cannot run the network: {first_line(error)}", valid="a network that it runs"
            ) from error

    def __call__(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The wanted tensors by name."""
        return dict(zip(self._names, self._session.run(self._names, dict(feed)), strict=True))
