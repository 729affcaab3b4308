"""What the numbers of a network have to be, checked wherever it is saved, loaded, trained on or exported.

A NaN has no integer, and what a compiler makes of one looks like any other weight.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aqd_deploy.errors import CheckpointError, ScaleError
from aqd_deploy.qat.heads import LevelScale
from aqd_deploy.qat.layers import BatchNorm, QuantConv2d
from aqd_deploy.qat.quantizers import ActivationQuantizer, WeightQuantizer

_REPAIR = "train on from a checkpoint whose numbers are finite, with a lower learning rate"


def check_network(model: nn.Module, owner: str) -> None:
    """Check every tensor of `model`, which messages call `owner` ("the network", "m.pt").

    Raises CheckpointError, naming the tensor, where one is not of finite float32 numbers, a variance is
    negative or a level scale has no finite exponential; ScaleError where a quantizer's step is not positive.
    """
    for name, value in model.state_dict().items():
        if value.is_floating_point() and value.dtype != torch.float32:
            raise CheckpointError(
                f"the tensor {name} of {owner} cannot be used", received=f"{value.dtype} numbers",
                valid="finite float32 numbers", next_command="model.float()",
            )  # fmt: skip
    for path, module in model.named_modules():
        if isinstance(module, ActivationQuantizer | WeightQuantizer):
            _check_step(path, module, owner)
    for name, value in model.state_dict().items():
        problem = _not_finite(value)
        if problem:
            raise _refused(name, owner, problem, "finite float32 numbers")
    for path, module in model.named_modules():
        name, problem, valid = _out_of_range(module)
        if name:
            raise _refused(f"{path}.{name}", owner, problem, valid)


def _out_of_range(module: nn.Module) -> tuple[str, str, str]:
    """Of the finite tensors of one module, the one out of its range, what it is, and what is valid."""
    if isinstance(module, BatchNorm) and module.running_var is not None:
        least = float(module.running_var.min())
        if least < 0:
            return "running_var", f"a variance of {least:g}", "0 or more"
    elif isinstance(module, QuantConv2d) and module.weight_quantizer is not None:
        if not bool(torch.isfinite(module.weight_quantizer.prepared(module.weight)).all()):
            return "weight", "no finite numbers once standardised", "weights whose sum is a float32 number"
    elif isinstance(module, LevelScale):
        factor = float(module.value().detach())
        if not 0 < factor < float("inf"):
            return "log_scale", f"a factor of {factor:g}", "a positive finite factor"
    return "", "", ""


def _not_finite(value: Tensor) -> str:
    """What keeps a tensor of float32 or of whole numbers from being finite, "" where nothing does."""
    if not value.is_floating_point():
        return ""
    if bool(torch.isfinite(value).all()):
        return ""
    return "NaN" if bool(torch.isnan(value).any()) else "infinity"


def _check_step(path: str, quantizer: ActivationQuantizer | WeightQuantizer, owner: str) -> None:
    try:
        quantizer.step()
    except ScaleError as error:
        raise ScaleError(
            f"{error.what}: {path} of {owner}", received=error.received, next_command=_REPAIR
        ) from error


def _refused(name: str, owner: str, received: str, valid: str) -> CheckpointError:
    return CheckpointError(
        f"the tensor {name} of {owner} cannot be used", received=received, valid=valid, next_command=_REPAIR
    )
