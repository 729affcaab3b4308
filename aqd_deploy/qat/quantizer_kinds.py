"""How quantizers find their interval, by name: a configuration's `quantizer`."""

from __future__ import annotations

from typing import NamedTuple

from aqd_deploy.qat.gaussian_quantizers import GaussianActivationQuantizer, GaussianWeightQuantizer
from aqd_deploy.qat.quantizers import ActivationQuantizer, WeightQuantizer


class QuantizerKind(NamedTuple):
    """The classes of one kind, made of the bits (and, of weights, of whether they are standardised)."""

    activation: type[ActivationQuantizer]
    weight: type[WeightQuantizer]


AQD = "aqd"
QUANTIZERS = {
    AQD: QuantizerKind(ActivationQuantizer, WeightQuantizer),
    "piecewise-gaussian": QuantizerKind(GaussianActivationQuantizer, GaussianWeightQuantizer),
}
