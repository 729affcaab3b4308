"""A network in onnxruntime, with any of its tensors as outputs, on one image or on several at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import onnx
from onnx import ModelProto

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.passes.inference import first_line
from aqd_deploy.targets.cpu import usual_threads

T = TypeVar("T")
R = TypeVar("R")


class Session:
    """Runs a model up to the tensors `wanted`, and computes nothing else. `as_written`: with the arithmetic
    of the file, for what is judged by its accuracy. `threads` of one run (None: all that are usual); with 1
    several runs go on at a time (`over`), which takes less CPU time. The numbers are the same.
    UnsupportedModelError for a model that onnxruntime cannot run.
    """

    def __init__(
        self,
        model: ModelProto,
        wanted: Sequence[str],
        *,
        as_written: bool = False,
        threads: int | None = None,
    ) -> None:
        import onnxruntime

        from aqd_deploy.integer.reference import keep_arithmetic

        part = ModelProto()
        part.CopyFrom(model)
        del part.graph.output[:], part.graph.value_info[:]
        part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # Its own default counts cores that the process may not use, whose threads would wait for each other.
        options.intra_op_num_threads = threads or usual_threads()
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


def over(run: Callable[[T], R], feeds: Iterable[T]) -> Iterator[R]:
    """What `run` makes of each feed, in their order, as many at a time as there are usual threads; no more
    than that are taken ahead.
    """
    workers = usual_threads()
    if workers == 1:
        yield from map(run, feeds)
        return
    with ThreadPoolExecutor(workers) as pool:
        begun: deque[Future[R]] = deque()
        for feed in feeds:
            begun.append(pool.submit(run, feed))
            if len(begun) > workers:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()


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
