"""Detectors from a `ModelConfig`: one class for the float and the quantized network."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from aqd_deploy.errors import ScaleError, ShapeError, UnsupportedModelError
from aqd_deploy.qat.config import DARKNET19, RESNETS, TINY_YOLO, ModelConfig
from aqd_deploy.qat.darknet19 import Darknet19
from aqd_deploy.qat.detectors import trained_detector
from aqd_deploy.qat.fpn import FPN
from aqd_deploy.qat.layers import QuantConv2d
from aqd_deploy.qat.quantizers import ActivationQuantizer
from aqd_deploy.qat.resnet import ResNet
from aqd_deploy.qat.tiny_yolo import TinyYolo
from aqd_deploy.qat.yolo_body import YoloBody

WRAPPERS = ("_orig_mod", "module")
"""Under which names torch's wrappers keep a network."""
_BODIES: dict[str, type[YoloBody]] = {TINY_YOLO: TinyYolo, DARKNET19: Darknet19}


class Detector(nn.Module):
    """`backbone`, `fpn` (YOLOv2 has none), `head`.

    forward takes float32 [N, 3, H, W], BGR pixels minus `config.mean`, and gives a dictionary of float maps:
    `cls_p3` …, `box_p3` …, as the entry of its detector (`aqd_deploy.detection.detectors`) says.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        make_first, make, make_last = _factories(config)
        self.backbone: Any
        self.fpn: Any = None
        if config.backbone in RESNETS:
            self.backbone = ResNet(config, make_first, make)
            self.fpn = FPN(self.backbone.channels, config, make)
        else:
            self.backbone = _BODIES[config.backbone](config, make_first, make)
        self.head = trained_detector(config).head(config, make, make_last)
        for path, weight_bits, activation_bits in config.layer_bits:
            _convolution(self, path).set_bits(weight_bits, activation_bits)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        if image.dim() != 4 or image.shape[1] != 3 or image.shape[2] % 32 or image.shape[3] % 32:
            raise ShapeError(
                "a detector takes [N, 3, H, W] with H and W multiples of 32", received=tuple(image.shape)
            )
        features = self.backbone(image)
        maps = self.head(features if self.fpn is None else self.fpn(*features))
        return {
            f"{kind}_{level}": value
            for kind, values in maps.items()
            for level, value in zip(self.config.levels, values, strict=True)
        }

    def preprocess(self, pixels: Tensor) -> Tensor:
        """uint8 BGR pixels [N, 3, H, W] to the network's input, float32."""
        mean = torch.tensor(self.config.mean, dtype=torch.float32, device=pixels.device)
        return pixels.to(torch.float32) - mean.reshape(1, 3, 1, 1)


def _convolution(model: Detector, path: str) -> QuantConv2d:
    """The convolution at `path`; UnsupportedModelError where there is none."""
    found = dict(model.named_modules()).get(path)
    if not isinstance(found, QuantConv2d):
        raise UnsupportedModelError(
            "layer_bits names a layer that is no convolution of the network", received=path,
            valid="for example backbone.layer1.0.conv1.conv",
        )  # fmt: skip
    return found


def _factories(config: ModelConfig) -> tuple[functools.partial, functools.partial, functools.partial]:
    """How first, inner and last convolutions are made."""
    outer = config.first_last_bits if config.bits is not None and config.mode == "aqd" else None
    convolution = functools.partial(QuantConv2d, quantizer=config.quantizer)
    first = functools.partial(convolution, weight_bits=outer)
    inner = functools.partial(
        convolution,
        weight_bits=config.bits,
        activation_bits=config.bits,
        standardize=config.weight_standardization,
    )
    last = functools.partial(convolution, weight_bits=outer, activation_bits=outer, bias=True)
    return first, inner, last


def build_model(config: ModelConfig) -> Detector:
    """The network of `config` with fresh random weights (torch's global generator)."""
    return Detector(config)


def unwrapped(model: nn.Module) -> Detector:
    """The detector that torch.compile, DistributedDataParallel or AveragedModel wraps, or `model` itself.

    UnsupportedModelError where there is none.
    """
    inner: object = model
    while isinstance(inner, nn.Module) and not isinstance(inner, Detector):
        inner = next((inner._modules[name] for name in WRAPPERS if name in inner._modules), None)
    if not isinstance(inner, Detector):
        raise UnsupportedModelError(
            "this is not a detector of aqd-deploy", received=type(model).__name__,
            valid="a network made by aqd_deploy.qat.models.build_model",
        )  # fmt: skip
    return inner


def quantized_from_float(model: Detector, config: ModelConfig, batches: Iterable[Tensor]) -> Detector:
    """The quantized network of `config` that starts from the float `model`.

    Weights, batch norms and scales are taken over; ν_w suits the weights, ν_x the activations that the float
    network shows on `batches` (network inputs, float32 [N, 3, H, W], on its device), each as the quantizer's
    `clip_of` has it.
    """
    quantized = build_model(config).to(next(model.parameters()).device)
    own = quantized.state_dict()
    learned = {name: value for name, value in own.items() if not name.endswith("quantizer.nu")}
    given = model.state_dict()
    foreign = sorted(set(learned) ^ set(given)) or [n for n in given if given[n].shape != learned[n].shape]
    if foreign:
        raise ValueError(f"the float network is not the one of this configuration: {', '.join(foreign[:4])}")
    quantized.load_state_dict({**own, **given})
    calibrate(quantized, batches)
    return quantized


def calibrate(model: Detector, batches: Iterable[Tensor]) -> None:
    """Sets every quantizer's ν: weights from themselves, activations from `batches` run through the network.

    The activations are those of the float network (weights and activations), so that one pass is enough. The
    model is left in the mode (train or eval) it came in.

    Raises ScaleError, naming the quantizer, where activations are not finite; ν is then that of the batches
    before.
    """
    for module in model.modules():
        if isinstance(module, QuantConv2d) and module.weight_quantizer is not None:
            module.weight_quantizer.initialize(module.weight)
    weights = [m for m in model.modules() if isinstance(m, QuantConv2d)]
    named = {path: m for path, m in model.named_modules() if isinstance(m, ActivationQuantizer)}
    quantizers = list(named.values())
    hooks = [m.register_forward_pre_hook(_refuses_not_finite(path)) for path, m in named.items()]
    held = [conv.weight_quantizer for conv in weights]
    training = model.training
    model.eval()
    try:
        for quantizer in quantizers:
            quantizer.observing = True
        for conv in weights:
            conv.weight_quantizer = None
        with torch.no_grad():
            for batch in batches:
                model(batch)
    finally:
        for hook in hooks:
            hook.remove()
        for conv, weight_quantizer in zip(weights, held, strict=True):
            conv.weight_quantizer = weight_quantizer
        for quantizer in quantizers:
            quantizer.calibrate()
        model.train(training)


def _refuses_not_finite(path: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    """A hook in front of the quantizer at `path`: ScaleError where its input has NaN or infinity."""

    def check(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if not bool(torch.isfinite(inputs[0]).all()):
            raise ScaleError(
                f"the activations in front of {path} are not finite: nothing can be calibrated on them",
                valid="finite images, and weights that keep their activations finite",
            )

    return check
