"""`detptq`: each quantizer is the one that hurts what the detector says the least.

DetPTQ (Niu, Liu et al., "Improving post-training quantization on object detection with task loss-guided Lp
metric", arXiv 2304.09785): the power p of the Lp distance differs by layer, and the p is kept whose quantizer
has the smallest object detection output loss. We could read no more than that. What is ours:

- the powers that are tried, 1 to 6, with the search of `lp_search.py`;
- the loss (`output_loss.py`);
- the start: of the networks with one p throughout the one of least loss;
- the order: front to back, a tensor at a time and not a layer, its values being those that the quantizers in
  front have left, and what is behind it being quantized as at the start. So no choice makes the loss larger;
- 64 images, the first of the calibration set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from onnx import ModelProto

from aqd_deploy.densities import Points
from aqd_deploy.quantization.calibration import Calibration
from aqd_deploy.quantization.lp_search import quantizers
from aqd_deploy.quantization.methods.contract import Chosen, observe_sites
from aqd_deploy.quantization.observe import BINS
from aqd_deploy.quantization.output_loss import MeanSquare, OutputLoss, Outputs, loss_of, manifest_of
from aqd_deploy.quantization.parts import Parts
from aqd_deploy.quantization.placement import Site
from aqd_deploy.quantization.plan import Plan
from aqd_deploy.quantization.progress import Run
from aqd_deploy.quantization.quantizer import QuantizerParameters
from aqd_deploy.quantization.state import Arrays
from aqd_deploy.quantization.write_qdq import write_qdq

POWERS = (1.0, 1.5, 2.0, 2.4, 3.0, 4.0, 6.0)
USUAL_POWER = 2.4
_START = "detptq start"


@dataclass(frozen=True)
class DetPtq:
    """`images` are how many of the calibration images the losses are of; their tensors are kept in memory."""

    images: float

    def choose(self, plan: Plan, calibration: Calibration, run: Run) -> Chosen:
        """The quantizer of every site of the plan. Raises what `manifest_of` and `loss_of` raise."""
        loss = loss_of(plan.network.model, manifest_of(plan.network.model, plan.described))
        if isinstance(loss, MeanSquare):
            run.warn("nobody says what the outputs mean (--detector): detptq chose by their mean square")
        first = calibration.first(int(self.images))
        late = run.time_is_up and run.state.get(_START) is None
        uniform = by_power(plan, first, run, (USUAL_POWER,) if late else POWERS)
        search = _Search(plan, list(first.feeds()), loss, uniform)
        power = USUAL_POWER if late else search.start(run)
        search.chosen = dict(uniform[power])
        for site in run.steps("choosing", plan.sites):
            name = f"detptq {site.tensor} {site.role.name}"
            if run.time_is_up and run.state.get(name) is None:
                run.warn(f"no time was left to choose from {site.tensor} on: the rest has p = {power:g}")
                break
            search.advance(site)
            kept = run.state.once(name, partial(search.find, site))
            search.chosen[site] = QuantizerParameters(
                kept["scale"], plan.bits[site], bool(kept["signed"]), int(kept["zero_point"])
            )
        return search.chosen


def by_power(
    plan: Plan, calibration: Calibration, run: Run, powers: Sequence[float] = POWERS
) -> dict[float, Chosen]:
    """What `mse` chooses with each of the powers."""
    observed = observe_sites(plan, calibration, run, histograms=True)
    found: dict[float, Chosen] = {power: {} for power in powers}
    for site in plan.sites:
        if site.is_weight:
            axis = plan.scale_axis(site)
            points = Points.of_weights(plan.network.array(site.tensor), axis)
            tried = quantizers(points, plan.bits[site], True, powers, axis)
        else:
            seen = observed[site.tensor]
            tried = _of_values(plan, site, seen.counts, seen.edges, powers)
        for power, quantizer in zip(powers, tried, strict=True):
            found[power][site] = quantizer
    return found


def _of_values(
    plan: Plan, site: Site, counts: np.ndarray, edges: np.ndarray, powers: Sequence[float]
) -> list[QuantizerParameters]:
    """The best quantizer of values with this histogram by each power."""
    signed = plan.recipe.symmetric and float(edges[0]) < 0
    return quantizers(Points.of_histogram(counts, edges), plan.bits[site], signed, powers)


class _Search:
    """The network while it is quantized front to back. `there` are the tensors in front of a site, for each
    image; `chosen` are the quantizers of all sites so far, `uniform` those of one power.
    """

    def __init__(
        self, plan: Plan, feeds: Sequence[Outputs], loss: OutputLoss, uniform: dict[float, Chosen]
    ) -> None:
        self.plan, self.uniform = plan, uniform
        self.parts = Parts(plan.network.model)
        self.chosen: Chosen = {}
        self.there = feeds
        self.distance = loss.against(self._run(self.parts.outputs, {}))

    def start(self, run: Run) -> float:
        """The power of least loss for all sites."""
        return float(run.state.once(_START, self._least)["power"])

    def _least(self) -> Arrays:
        """The `power` of least loss."""
        losses = {
            power: self.distance(self._run(self.parts.outputs, each)) for power, each in self.uniform.items()
        }
        return {"power": np.array(min(losses, key=lambda power: losses[power]))}

    def advance(self, site: Site) -> None:
        """Goes on to this site, also where its quantizer is known: a resumed run sees the same numbers."""
        self.there = self._run(self.parts.live(site.readers), self.chosen)

    def find(self, site: Site) -> Arrays:
        """The quantizer of least loss: `scale`, `signed`, `zero_point`. The one that is there wins a draw."""
        candidates = _different([self.chosen[site], *self._candidates(site)])
        model = write_qdq(self.plan.network, {**self.chosen, site: candidates[0]})
        constants = [self._constants(model, site, each) for each in candidates]
        losses = [
            self.distance(found)
            for found in self.parts.runs(model, self.parts.outputs, self.there, constants)
        ]
        best = candidates[int(np.argmin(losses))]
        return {
            "scale": best.scale, "signed": np.array(best.signed), "zero_point": np.array(best.zero_point)
        }  # fmt: skip

    def _candidates(self, site: Site) -> list[QuantizerParameters]:
        """The best quantizer by each power."""
        if site.is_weight:
            return [chosen[site] for chosen in self.uniform.values()]
        values = [each[site.tensor].reshape(-1) for each in self._run([site.tensor], self.chosen)]
        low, high = (float(end) for end in (min(v.min() for v in values), max(v.max() for v in values)))
        counts, edges = np.histogram(np.concatenate(values), BINS, (low, high if high > low else low + 1))
        return _of_values(self.plan, site, counts, edges, POWERS)

    def _constants(self, model: ModelProto, site: Site, quantizer: QuantizerParameters) -> Outputs:
        """What stands for the quantizer in a model that has one there, by name."""
        reader = site.readers[0]
        read = next(node for node in model.graph.node if node.output[0] == reader.node).input[reader.index]
        codes, scale, zero = next(node for node in model.graph.node if node.output[0] == read).input
        if not site.is_weight:
            kind = np.int8 if quantizer.signed else np.uint8
            return {scale: np.asarray(quantizer.scale), zero: np.array(quantizer.zero_point, kind)}
        weights = quantizer.codes(self.plan.network.array(site.tensor), self.plan.scale_axis(site))
        return {codes: weights.astype(np.int8), scale: quantizer.scale}

    def _run(self, wanted: Sequence[str], quantizers: Chosen) -> Sequence[Outputs]:
        """Tensors of the network with these quantizers, from what is there, for each image."""
        model = write_qdq(self.plan.network, quantizers)
        return self.parts.run(model, wanted, self.there)


def _different(quantizers: Sequence[QuantizerParameters]) -> list[QuantizerParameters]:
    """Each once, in their order: powers often agree, the more bits, the more often."""
    found: dict[tuple[bytes, bool, int], QuantizerParameters] = {}
    for each in quantizers:
        found.setdefault((each.scale.tobytes(), each.signed, each.zero_point), each)
    return list(found.values())
