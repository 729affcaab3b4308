"""A network in onnxruntime, with any of its tensors as outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import onnx
from onnx import ModelProto

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.passes.inference import first_line


class Session:
    """Runs a model up to the tensors `wanted`, and computes nothing else. `as_written`: with the arithmetic
    of the file, for what is judged by its accuracy. UnsupportedModelError for a model that onnxruntime cannot
    run.
    """

    def __init__(self, model: ModelProto, wanted: Sequence[str], *, as_written: bool = False) -> None:
        import onnxruntime

        from aqd_deploy.integer.reference import keep_arithmetic

        part = ModelProto()
        part.CopyFrom(model)
        del part.graph.output[:], part.graph.value_info[:]
        part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # The floats between quantizers, where onnxruntime would put operators on codes that round otherwise.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        if as_written:
            keep_arithmetic(options)
        self._names = list(wanted)
        with _told():
            self._session = onnxruntime.InferenceSession(
                part.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )

    def __call__(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The wanted tensors by name."""
        with _told():
            return dict(zip(self._names, self._session.run(self._names, dict(feed)), strict=True))


@contextmanager
def _told() -> Iterator[None]:
    """onnxruntime's own errors as one of ours."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    failures = (state.Fail, state.InvalidArgument, state.InvalidGraph, state.NotImplemented)
    try:
        yield
    except (*failures, state.RuntimeException, RuntimeError) as error:
        # Behind what kind of failure it is.
        said = first_line(error).rpartition(" : ")[2].removeprefix("Fatal error: ")
        raise UnsupportedModelError(
            f"onnxruntime cannot run the network: {said}",
            valid="a network that runs there as it is",
        ) from error  # fmt: skip
