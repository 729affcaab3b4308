"""OpenVINO: the float file, onnxruntime's INT8 QDQ file, and its own INT8 variant by NNCF.

Where the CPU has AMX or AVX512-BF16 instructions, OpenVINO computes a float network in bfloat16 unless it is
asked for float32. Its INT8 variants keep its default: what is not INT8 in them runs in the precision that it
prefers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aqd_deploy.bench.network import Network
from aqd_deploy.bench.peers.contract import INSTALL_PEERS, Conversion, Opened, Peer, Variant
from aqd_deploy.bench.peers.onnxruntime import QDQ, QDQ_FILE

_IR = "int8.xml"


def _quantize_nncf(network: Network, folder: Path) -> None:
    """`nncf.quantize` with its default preset over the calibration images."""
    import logging

    import nncf
    import openvino

    nncf.set_log_level(logging.ERROR)
    model = openvino.Core().read_model(network.float_model)
    calibration = network.calibration()
    quantized = nncf.quantize(model, nncf.Dataset(calibration), subset_size=len(calibration))
    openvino.save_model(quantized, folder / _IR, compress_to_fp16=False)


def _open_float(path: Path, network: Network, threads: int) -> Opened:
    return _open(path, network, threads, {"INFERENCE_PRECISION_HINT": "f32"})


def _open(path: Path, network: Network, threads: int, more: Mapping[str, str] | None = None) -> Opened:
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", **(more or {})}
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    request, value = compiled.create_infer_request(), network.value
    return Opened(lambda: request.infer([value]), _convolutions(compiled))


def _convolutions(compiled: Any) -> dict[str, int]:
    """Of the graph that it runs: `brgconv_avx512_amx_I8` is one of bytes on AMX's tiles."""
    told = (operation.get_rt_info() for operation in compiled.get_runtime_model().get_ops())
    return dict(
        Counter(each["primitiveType"].value for each in told if each["layerType"].value == "Convolution")
    )


PEER = Peer(
    "openvino",
    ("openvino",),
    ("openvino", "nncf"),
    INSTALL_PEERS,
    (
        Variant("float", "float32 (INFERENCE_PRECISION_HINT f32)", None, _open_float),
        Variant(
            "int8 qdq",
            "onnxruntime's INT8 QDQ file",
            QDQ,
            lambda folder, network, threads: _open(folder / QDQ_FILE, network, threads),
        ),
        Variant(
            "int8 nncf",
            "INT8 by nncf.quantize, default preset",
            Conversion("int8-nncf", ("openvino", "nncf"), _quantize_nncf),
            lambda folder, network, threads: _open(folder / _IR, network, threads),
            modules=("nncf",),
        ),
    ),
    quantized=Variant("int8 file", "the quantized file as it is", None, _open),
)
