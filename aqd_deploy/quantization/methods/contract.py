"""What a method of choosing quantizers is.

A plain method looks at one tensor. A network method looks at all of them, and at the network's outputs; the
pipeline knows only these, `lifted` makes one of a plain method.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from aqd_deploy.quantization.calibration import Calibration
from aqd_deploy.quantization.observe import Observations, observe
from aqd_deploy.quantization.placement import Site
from aqd_deploy.quantization.plan import Plan
from aqd_deploy.quantization.progress import Run
from aqd_deploy.quantization.quantizer import QuantizerParameters

Chosen = dict[Site, QuantizerParameters]


class Method(Protocol):
    """Quantizers by the values of one tensor. `histograms` says whether `activation` reads them."""

    histograms: bool

    def activation(self, observed: Observations, bits: int, signed: bool) -> QuantizerParameters:
        """The quantizer of an activation: signed and symmetric, else unsigned, with a zero point where the
        values have both signs.
        """

    def weight(self, weights: np.ndarray, bits: int, axis: int | None) -> QuantizerParameters:
        """The signed quantizer of weights, one scale for each index of `axis`, or one (None)."""


class NetworkMethod(Protocol):
    """Quantizers of a whole network."""

    def choose(self, plan: Plan, calibration: Calibration, run: Run) -> Chosen:
        """The quantizer of every site of the plan."""


@dataclass(frozen=True)
class Lifted:
    """A plain method as one of networks: every tensor of the float network by itself."""

    method: Method

    def choose(self, plan: Plan, calibration: Calibration, run: Run) -> Chosen:
        """The quantizer of every site of the plan."""
        observed = observe_sites(plan, calibration, run, histograms=self.method.histograms)
        chosen: Chosen = {}
        for site in run.steps("choosing", plan.sites):
            if site.is_weight:
                axis = plan.scale_axis(site)
                chosen[site] = self.method.weight(plan.network.array(site.tensor), plan.bits[site], axis)
            else:
                seen = observed[site.tensor]
                signed = plan.recipe.symmetric and seen.low < 0
                chosen[site] = self.method.activation(seen, plan.bits[site], signed)
        return chosen


def observe_sites(
    plan: Plan, calibration: Calibration, run: Run, *, histograms: bool
) -> Mapping[str, Observations]:
    """What the activations of a plan's sites are like in the float network; warns of constant ones."""
    observed = observe(plan.network.model, plan.activations, calibration, run, histograms=histograms)
    for name, seen in observed.items():
        if seen.low == seen.high:
            run.warn(f"{name} is {seen.low:g} everywhere in every calibration image")
    return observed
