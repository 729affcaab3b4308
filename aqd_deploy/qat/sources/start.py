"""From the float network of another framework to one that AQD can train: batch norm and ReLU behind every
convolution of the pyramid, a batch norm a level in the head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.qat.config import ModelConfig
from aqd_deploy.qat.layers import ConvBias, QuantConv2d, SharedConv
from aqd_deploy.qat.models import Detector, build_model
from aqd_deploy.qat.sources.bits import STEM


def aqd_start(model: Detector) -> tuple[Detector, tuple[str, ...]]:
    """A float network that starts from the weights of the float network `model`, and what could not be
    carried over.

    New batch norms have the variance 1 and leave numbers as they are: the first steps of training give them
    statistics. Of a group norm they take weight and bias, of a convolution its bias. A mean that is not
    whole is rounded, which the first batch norm takes back but for the border of the image.

    Raises UnsupportedModelError for a network that is quantized.
    """
    config = model.config
    if config.bits is not None:
        raise UnsupportedModelError(
            "a quantized network is trained on as it is", received=config.label,
            valid="a float network",
        )  # fmt: skip
    mean = tuple(round(each) for each in config.mean)
    start = build_model(config.replace(pyramid="bn-relu", head_norm="levels", mean=mean))
    start.load_state_dict(_carried(model, start), strict=False)
    notes = _lost(config)
    if mean != config.mean:
        _take_back(start, [whole - each for whole, each in zip(mean, config.mean, strict=True)])
        notes.append(f"the mean {list(config.mean)} is rounded to {list(mean)}: exact but for the border")
    return start.train(), tuple(notes)


def _carried(model: Detector, start: Detector) -> dict[str, Tensor]:
    """The tensors of `model` under the names that `start` has for them."""
    wanted = start.state_dict()
    state = {name: value for name, value in model.state_dict().items() if name in wanted}
    for path, module in model.named_modules():
        if isinstance(module, ConvBias | SharedConv):
            norms = [name.removesuffix(".running_var") for name in wanted
                     if name.startswith(f"{path}.bn.") and name.endswith(".running_var")]  # fmt: skip
            for norm in norms:
                state |= {f"{norm}.{key}": value for key, value in _norm_of(module).items()}
    return state


def _norm_of(module: ConvBias | SharedConv) -> dict[str, Tensor]:
    """Weight and bias of the batch norm in the place of what `module` has."""
    bias = module.conv.bias
    assert bias is not None
    group = module.norm if isinstance(module, SharedConv) else None
    if isinstance(group, nn.GroupNorm):
        return {"weight": group.weight, "bias": group.bias}
    return {"weight": torch.ones_like(bias), "bias": bias}


def _lost(config: ModelConfig) -> list[str]:
    """What the trained network has otherwise."""
    lost = []
    if config.pyramid == "bias":
        lost.append("the pyramid's convolutions have batch norm and ReLU instead of a bias: both are new")
    if config.head_norm == "none":
        lost.append("the towers' convolutions have a batch norm a level, which is new")
    if config.head_norm == "group":
        lost.append(
            "the towers' group norms are batch norms a level with the same weight and bias: statistics are "
            "new, biases of the convolutions are left out"
        )
    return lost


def _take_back(start: Detector, difference: list[float]) -> None:
    """Moves the mean of the first batch norm by what a pixel is smaller in every channel."""
    stem = start.get_submodule(STEM)
    assert isinstance(stem, QuantConv2d)
    with torch.no_grad():
        moved = stem.weight.sum(dim=(2, 3)) @ torch.tensor(difference)
        norm = start.backbone.stem.bn
        assert norm.running_mean is not None
        norm.running_mean -= moved
