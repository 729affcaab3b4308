"""The methods of choosing quantizers, by name. Who adds one adds its line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from aqd_deploy.errors import RecipeError
from aqd_deploy.quantization.methods.contract import Lifted, NetworkMethod
from aqd_deploy.quantization.methods.detptq import POWERS, USUAL_POWER, DetPtq
from aqd_deploy.quantization.methods.entropy import Entropy
from aqd_deploy.quantization.methods.minmax import MinMax
from aqd_deploy.quantization.methods.mse import Mse
from aqd_deploy.quantization.methods.percentile import Percentile
from aqd_deploy.quantization.methods.piecewise_gaussian import PiecewiseGaussian
from aqd_deploy.quantization.methods.power_of_two import PowerOfTwo


@dataclass(frozen=True)
class Parameter:
    """A number that a recipe may give a method: its default, and its bounds, both allowed."""

    default: float
    low: float
    high: float


@dataclass(frozen=True)
class Entry:
    """How a method is made, by its parameters as keywords."""

    make: Callable[..., NetworkMethod]
    parameters: Mapping[str, Parameter] = field(default_factory=dict)


METHODS: Mapping[str, Entry] = {
    "minmax": Entry(lambda: Lifted(MinMax())),
    "percentile": Entry(lambda percent: Lifted(Percentile(percent)), {"percent": Parameter(99.99, 50, 100)}),
    "entropy": Entry(lambda: Lifted(Entropy())),
    "power-of-two": Entry(lambda: Lifted(PowerOfTwo())),
    "mse": Entry(
        lambda power: Lifted(Mse(power)), {"power": Parameter(USUAL_POWER, min(POWERS), max(POWERS))}
    ),
    "piecewise-gaussian": Entry(lambda: Lifted(PiecewiseGaussian())),
    "detptq": Entry(DetPtq, {"images": Parameter(64, 1, 1024)}),
}


def method_named(name: str, parameters: Mapping[str, float]) -> NetworkMethod:
    """The method of a recipe. RecipeError for an unknown one, and for parameters that it does not have."""
    entry = METHODS.get(name)
    if entry is None:
        raise RecipeError("there is no such method", received=repr(name), valid=", ".join(METHODS))
    for key, value in parameters.items():
        known = entry.parameters.get(key)
        if known is None:
            raise RecipeError(f"the method {name} has no parameter {key}",
                              valid=", ".join(entry.parameters) or "none")  # fmt: skip
        if not known.low <= value <= known.high:
            raise RecipeError(f"the parameter {key} of the method {name} is out of its bounds",
                              received=value, valid=f"{known.low:g} to {known.high:g}")  # fmt: skip
    defaults = {key: each.default for key, each in entry.parameters.items()}
    return entry.make(**{**defaults, **parameters})
