"""onnxruntime: the float file, and the INT8 QDQ file that its own quantizer makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from aqd_deploy.bench.network import Network
from aqd_deploy.bench.peers.contract import Contender, Conversion, Opened, Peer, Variant

QDQ_FILE = "int8.onnx"


def _quantize(network: Network, folder: Path) -> None:
    """`quantize_static`: per-channel int8 weights, uint8 activations, ranges by minimum and maximum."""
    import logging

    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    # The quantizer logs advice that no user of `bench` can follow.
    logging.disable(logging.WARNING)
    model = onnx.load(network.float_model)
    name = model.graph.input[0].name

    class Reader(CalibrationDataReader):
        """Feeds the calibration inputs once."""

        def __init__(self) -> None:
            self.remaining = iter(network.calibration())

        def get_next(self) -> dict[str, np.ndarray] | None:
            array = next(self.remaining, None)
            return None if array is None else {name: array}

    inferred = folder / "inferred.onnx"
    onnx.save(onnx.shape_inference.infer_shapes(model), inferred)
    quantize_static(
        inferred,
        folder / QDQ_FILE,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    inferred.unlink()


QDQ = Conversion("int8-qdq", ("onnxruntime", "onnx"), _quantize)


def open_session(path: Path, value: np.ndarray, threads: int) -> Contender:
    """A function that runs the ONNX file `path` once on its only input, with `threads` threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Off by default; what is called float32 shall not depend on a default.
    options.add_session_config_entry("mlas.enable_gemm_fastmath_arm64_bfloat16", "0")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: value}
    return lambda: session.run(None, feed)


def _open_file(path: Path, network: Network, threads: int) -> Opened:
    return Opened(open_session(path, network.value, threads))


def _open_int8(path: Path, network: Network, threads: int) -> Opened:
    return Opened(open_session(path / QDQ_FILE, network.value, threads))


PEER = Peer(
    "onnxruntime",
    ("onnxruntime",),
    ("onnxruntime",),
    "pip install aqd-deploy",
    (
        Variant("float", "float32", None, _open_file),
        Variant("int8", "INT8 QDQ by quantize_static", QDQ, _open_int8),
    ),
    quantized=Variant("int8 file", "the quantized file as it is", None, _open_file),
)
