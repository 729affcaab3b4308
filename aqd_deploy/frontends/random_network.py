"""Named architectures with calibrated random weights, for latency work before there is a trained checkpoint.

Plain random weights would let activations die or saturate, so that kernels and range proofs would see nothing
typical. Here batch-norm statistics and quantizer steps are measured on generated textures.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from aqd_deploy.detection.textures import textures
from aqd_deploy.qat.config import ModelConfig
from aqd_deploy.qat.layers import BatchNorm, QuantConv2d
from aqd_deploy.qat.models import Detector, build_model
from aqd_deploy.qat.quantizers import ActivationQuantizer

CALIBRATION_SIZE = 128
CALIBRATION_BATCH = 4
WEIGHT_SAMPLES = 10_000


def random_detector(config: ModelConfig, seed: int = 0) -> Detector:
    """A detector of `config` with random weights of that seed, calibrated, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(config)
        _randomize_batch_norms(model)
    with _one_thread():
        _initialize_weight_quantizers(model)
    images = torch.from_numpy(textures(CALIBRATION_BATCH, CALIBRATION_SIZE, CALIBRATION_SIZE, seed))
    inputs = model.preprocess(images)
    quantizers = [module for module in model.modules() if isinstance(module, ActivationQuantizer)]
    for quantizer in quantizers:
        quantizer.observing = True
    _measure_batch_norms(model, inputs)
    with _one_thread():
        for quantizer in quantizers:
            quantizer.calibrate()
    _measure_batch_norms(model, inputs)
    return model.eval()


def _randomize_batch_norms(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.2)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Searches over small tensors: torch's threads would spend their time waiting for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _initialize_weight_quantizers(model: nn.Module) -> None:
    """ν_w from a sample of each layer's weights: all of them would take a minute in a full-width network."""
    for module in model.modules():
        if isinstance(module, QuantConv2d) and module.weight_quantizer is not None:
            flat = module.weight.detach().flatten()
            module.weight_quantizer.initialize(flat[:: max(1, flat.numel() // WEIGHT_SAMPLES)])


def _measure_batch_norms(model: nn.Module, inputs: torch.Tensor) -> None:
    """Running statistics := those of `inputs`."""
    norms = [module for module in model.modules() if isinstance(module, BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    model.train()
    with torch.no_grad():
        model(inputs)
    model.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
