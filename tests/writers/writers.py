"""Who writes quantized files: each takes a network of `networks.py` and returns the file that it makes of it.

A writer is a function of the network's name and calibration images. Packages are imported when they write.
"""

from __future__ import annotations

import copy
import io
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import networks
import numpy as np
import onnx
import torch
from onnx import ModelProto

INPUT = "image"


@dataclass(frozen=True)
class Writer:
    """`packages` are those that `write` imports, but for what the tests install anyway."""

    write: Callable[[str, Sequence[np.ndarray]], ModelProto]
    packages: tuple[str, ...] = ()


def float_file(module: torch.nn.Module, image: np.ndarray, opset: int = 17) -> ModelProto:
    """What torch's exporter writes of a module."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (torch.from_numpy(image),), buffer, input_names=[INPUT], opset_version=opset, dynamo=False
        )
    return onnx.load_from_string(buffer.getvalue())


class _Reader:
    """onnxruntime's calibration data."""

    def __init__(self, images: Sequence[np.ndarray]) -> None:
        self.images: Iterator[np.ndarray] = iter(images)

    def get_next(self):
        image = next(self.images, None)
        return None if image is None else {INPUT: image}


def _onnxruntime(name: str, images: Sequence[np.ndarray], opset: int = 17, **settings) -> ModelProto:
    """quantize_static of a prepared file, as its manual says."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    types = {"u8": QuantType.QUInt8, "s8": QuantType.QInt8, "s4": QuantType.QInt4, "u16": QuantType.QUInt16}
    activations, weights = settings.pop("types", ("u8", "s8"))
    chosen = {
        "quant_format": QuantFormat.QDQ,
        "per_channel": True,
        "activation_type": types[activations],
        "weight_type": types[weights],
        **settings,
    }
    if chosen["quant_format"] == "QOperator":
        chosen["quant_format"] = QuantFormat.QOperator
    with tempfile.TemporaryDirectory() as folder:
        source, prepared, target = (
            Path(folder) / f"{stem}.onnx" for stem in ("float", "prepared", "quantized")
        )
        onnx.save(float_file(networks.network(name), images[0], opset), source)
        quant_pre_process(str(source), str(prepared))
        quantize_static(str(prepared), str(target), _Reader(images), **chosen)
        return onnx.load(target)


def onnxruntime_writer(opset: int = 17, **settings) -> Writer:
    """One setting of quantize_static."""
    return Writer(lambda name, images: _onnxruntime(name, images, opset, **copy.deepcopy(settings)))


def _nncf(name: str, images: Sequence[np.ndarray], **settings) -> ModelProto:
    import nncf

    chosen = {key: getattr(getattr(nncf, kind), value) for key, (kind, value) in settings.items()}
    model = float_file(networks.network(name), images[0])
    data = nncf.Dataset(list(images), lambda image: {INPUT: image})
    return nncf.quantize(model, data, subset_size=len(images), **chosen)


def nncf_writer(**settings) -> Writer:
    """One preset of nncf.quantize."""
    return Writer(lambda name, images: _nncf(name, images, **settings), ("nncf",))


def _brevitas(name: str, images: Sequence[np.ndarray], qonnx: bool) -> ModelProto:
    from brevitas.export import export_onnx_qcdq, export_qonnx
    from brevitas.graph.calibrate import calibration_mode
    from brevitas.graph.quantize import preprocess_for_quantize, quantize

    tensors = [torch.from_numpy(image) for image in images]
    module = quantize(preprocess_for_quantize(networks.network(name), trace_model=True))
    with torch.no_grad(), calibration_mode(module):
        for tensor in tensors:
            module(tensor)
    export = export_qonnx if qonnx else export_onnx_qcdq
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "m.onnx"
        export(
            module,
            args=tensors[0],
            export_path=str(target),
            opset_version=17,
            input_names=[INPUT],
            dynamo=False,
        )
        return onnx.load(target)


def _pt2e(name: str, images: Sequence[np.ndarray], quantizer: str) -> ModelProto:
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    tensors = [torch.from_numpy(image) for image in images]
    exported = torch.export.export(networks.network(name), (tensors[0],)).module()
    prepared = prepare_pt2e(exported, _QUANTIZERS[quantizer]())
    for tensor in tensors:
        prepared(tensor)
    converted = convert_pt2e(prepared)
    program = torch.onnx.export(
        converted, (tensors[0],), input_names=[INPUT], dynamo=True, opset_version=21, verbose=False
    )
    return program.model_proto


def _x86():
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    return x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())


def _xnnpack():
    from torchao.testing.pt2e._xnnpack_quantizer import XNNPACKQuantizer, get_symmetric_quantization_config

    return XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))


_QUANTIZERS = {"x86": _x86, "xnnpack": _xnnpack}


def _modelopt(name: str, images: Sequence[np.ndarray]) -> ModelProto:
    import modelopt.torch.quantization as mtq

    tensors = [torch.from_numpy(image) for image in images]

    def calibrate(module):
        for tensor in tensors:
            module(tensor)

    module = mtq.quantize(networks.network(name), copy.deepcopy(mtq.INT8_DEFAULT_CFG), calibrate)
    return float_file(module, images[0])


_BREVITAS = ("brevitas", "onnxoptimizer")
_TORCHAO = ("torchao", "onnxscript")
WRITERS: dict[str, Writer] = {
    "ort-u8s8": onnxruntime_writer(),
    "ort-s8s8": onnxruntime_writer(types=("s8", "s8")),
    "ort-symmetric": onnxruntime_writer(types=("s8", "s8"), extra_options={"ActivationSymmetric": True}),
    "ort-per-tensor": onnxruntime_writer(per_channel=False),
    "ort-u8u8": onnxruntime_writer(types=("u8", "u8"), per_channel=False),
    "ort-qoperator": onnxruntime_writer(quant_format="QOperator", per_channel=False),
    "ort-products": onnxruntime_writer(op_types_to_quantize=["Conv", "Gemm", "ConvTranspose"]),
    "ort-int4": onnxruntime_writer(opset=21, types=("u8", "s4")),
    "ort-float-bias": onnxruntime_writer(extra_options={"QuantizeBias": False}),
    "nncf-performance": nncf_writer(preset=("QuantizationPreset", "PERFORMANCE")),
    "nncf-mixed": nncf_writer(preset=("QuantizationPreset", "MIXED")),
    "nncf-transformer": nncf_writer(model_type=("ModelType", "TRANSFORMER")),
    "brevitas-qcdq": Writer(lambda name, images: _brevitas(name, images, False), _BREVITAS),
    "brevitas-qonnx": Writer(lambda name, images: _brevitas(name, images, True), _BREVITAS),
    "pt2e-x86": Writer(lambda name, images: _pt2e(name, images, "x86"), _TORCHAO),
    "pt2e-xnnpack": Writer(lambda name, images: _pt2e(name, images, "xnnpack"), _TORCHAO),
    "modelopt": Writer(_modelopt, ("modelopt", "huggingface_hub")),
}
