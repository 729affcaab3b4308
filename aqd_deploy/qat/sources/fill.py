"""From the tensors of a checkpoint and its description to a detector of ours."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aqd_deploy.errors import CheckpointError, ScaleError, UnsupportedModelError
from aqd_deploy.qat.checkpoint import without_memory
from aqd_deploy.qat.heads import LevelScale
from aqd_deploy.qat.layers import BatchNorm, QuantConv2d
from aqd_deploy.qat.models import Detector, build_model
from aqd_deploy.qat.soundness import check_network
from aqd_deploy.qat.sources.bits import KINDS, STEM
from aqd_deploy.qat.sources.contract import Description, Pixels
from aqd_deploy.qat.sources.weights import Weights


def filled(description: Description, weights: Weights) -> Detector:
    """The detector, in eval mode.

    - The bias of a convolution with batch norms behind it goes into their means.
    - A batch norm of another ε has its γ for ours.
    - What pixels are divided by goes into the first convolution's weights, as does the order of colours.

    Raises CheckpointError, ScaleError and UnsupportedModelError.
    """
    pixels = description.pixels
    mean = tuple(pixels.mean[::-1] if pixels.rgb else pixels.mean)
    whole = all(each == int(each) for each in mean)
    config = description.config.replace(mean=tuple(map(int, mean)) if whole else mean)
    _check_shapes(without_memory(config), description, weights)
    model = build_model(config)
    biases: dict[str, Tensor] = {}
    for path, module in model.named_modules():
        state = _state_of(path, module, description, weights, biases)
        if state:
            module.load_state_dict(state, strict=False)
    stem = model.get_submodule(STEM)
    assert isinstance(stem, QuantConv2d)
    _fold_pixels(stem, pixels)
    check_network(model, weights.owner)
    return model.eval()


def _check_shapes(plan: Detector, description: Description, weights: Weights) -> None:
    """Raise CheckpointError where convolutions are not those of the network that was understood, before it is
    made: it may be larger than what the file holds.
    """
    for path, module in plan.named_modules():
        if isinstance(module, QuantConv2d):
            weights.check(f"{description.names[path]}.weight", module.weight.shape)


def _state_of(
    path: str, module: nn.Module, description: Description, weights: Weights, biases: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The tensors of one module, {} where it has none of its own. `biases` has those of convolutions whose
    batch norms come later.
    """
    name = description.names.get(path, "")
    if isinstance(module, QuantConv2d):
        return _convolution(path, module, name, weights, biases)
    if isinstance(module, BatchNorm):
        conv = f"{path.partition('.bn')[0]}.conv"
        return _batch_norm(module, name, weights, description.epsilon, biases.get(conv))
    if isinstance(module, nn.GroupNorm):
        shape = [module.num_channels]
        return {key: weights.take(f"{name}.{key}", shape) for key in ("weight", "bias")}
    if isinstance(module, LevelScale):
        scale = weights.maybe(f"{name}.scale", [1], 1.0)
        if float(scale) <= 0:
            raise ScaleError(
                f"the scale {name} of {weights.owner} is not positive", received=float(scale),
                valid="a positive number",
            )  # fmt: skip
        return {"log_scale": torch.log(scale.double()).float().reshape(())}
    return {}


def _convolution(
    path: str, module: QuantConv2d, name: str, weights: Weights, biases: dict[str, Tensor]
) -> dict[str, Tensor]:
    state = {"weight": weights.take(f"{name}.weight", module.weight.shape)}
    channels = [module.out_channels]
    if module.bias is not None:
        state["bias"] = weights.maybe(f"{name}.bias", channels, 0.0)
    elif f"{name}.bias" in weights:
        biases[path] = weights.take(f"{name}.bias", channels)
    for ours, theirs in KINDS.items():
        if getattr(module, ours) is None:
            continue
        clip = weights.take(f"{name}.{theirs}.clip_val")
        if clip.numel() != 1:
            raise CheckpointError(
                f"the quantizer {name}.{theirs} of {weights.owner} has a clip value a channel",
                received=list(clip.shape), valid="one for the layer (wt_quant_group: 1)",
            )  # fmt: skip
        state[f"{ours}.nu"] = clip.reshape(())
    return state


def _batch_norm(
    module: BatchNorm, name: str, weights: Weights, epsilon: float, bias: Tensor | None
) -> dict[str, Tensor]:
    keys = ("weight", "bias", "running_mean", "running_var")
    state = {key: weights.take(f"{name}.{key}", [module.num_features]) for key in keys}
    if bias is not None:
        state["running_mean"] = state["running_mean"] - bias
    if epsilon != module.eps:
        variance = state["running_var"].double()
        factor = torch.sqrt((variance + module.eps) / (variance + epsilon))
        state["weight"] = (state["weight"].double() * factor).float()
    return state


def _fold_pixels(stem: QuantConv2d, pixels: Pixels) -> None:
    """Makes the first convolution, whose input the checkpoint divides, take BGR pixels as they are."""
    if stem.weight_quantizer is not None and any(each != 1 for each in pixels.std):
        raise UnsupportedModelError(
            "the first layer is quantized and takes divided pixels", received=f"std {list(pixels.std)}",
            valid="PIXEL_STD: [1.0, 1.0, 1.0]",
        )  # fmt: skip
    with torch.no_grad():
        weight = stem.weight.double() / torch.tensor(pixels.std, dtype=torch.float64).reshape(1, 3, 1, 1)
        stem.weight.copy_(weight.flip(1) if pixels.rgb else weight)
