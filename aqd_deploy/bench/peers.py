"""Other runtimes, each as a function that runs the float or the INT8 form of the same network once."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aqd_deploy.errors import AqdError

Contender = Callable[[], object]


@dataclass(frozen=True)
class Peer:
    """A runtime: the module that must be importable, how to install it, and how to open an ONNX file with it.

    `open` takes the file, the input's name, an input float32 [1, 3, H, W] and the number of threads.
    """

    name: str
    module: str
    install: str
    open: Callable[[Path, str, np.ndarray, int], Contender]

    def installed(self) -> bool:
        """Whether its module can be imported."""
        return importlib.util.find_spec(self.module) is not None


def _open_onnxruntime(path: Path, name: str, value: np.ndarray, threads: int) -> Contender:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {name: value})


def _open_openvino(path: Path, name: str, value: np.ndarray, threads: int) -> Contender:
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    request = compiled.create_infer_request()
    return lambda: request.infer({name: value})


PEERS = {
    peer.name: peer
    for peer in (
        Peer("onnxruntime", "onnxruntime", "pip install aqd-deploy", _open_onnxruntime),
        Peer("openvino", "openvino", "pip install 'aqd-deploy[peers]'", _open_openvino),
    )
}


def choose_peers(names: list[str]) -> tuple[list[Peer], list[Peer]]:
    """The peers of these names, those installed and those missing; AqdError for an unknown name."""
    for name in names:
        if name not in PEERS:
            raise AqdError("unknown peer", received=repr(name), valid=", ".join(PEERS))
    chosen = [PEERS[name] for name in dict.fromkeys(names)]
    return [p for p in chosen if p.installed()], [p for p in chosen if not p.installed()]
