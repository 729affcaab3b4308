"""`detptq`: each quantizer is the one that hurts what the detector says the least.

DetPTQ (Niu, Liu et al., "Improving post-training quantization on object detection with task loss-guided Lp
metric", arXiv 2304.09785): the power p of the Lp distance differs by layer, and the p is kept whose quantizer
has the smallest object detection output loss. We could read no more than that. What is ours:

- the powers that are tried, 1 to 6, with the search of `lp_search.py`;
- the loss (`output_loss.py`);
- the order: front to back, a tensor at a time and not a layer, its values being those that the quantizers in
  front have left, and what is behind it being float yet;
- 64 images, the first of the calibration set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aqd_deploy.integer.manifest import read_manifest
from aqd_deploy.quantization.calibration import Calibration
from aqd_deploy.quantization.lp_search import Points, quantizers
from aqd_deploy.quantization.methods.contract import Chosen
from aqd_deploy.quantization.observe import BINS
from aqd_deploy.quantization.output_loss import MeanSquare, OutputLoss, Outputs, loss_for
from aqd_deploy.quantization.parts import Parts
from aqd_deploy.quantization.placement import Site
from aqd_deploy.quantization.plan import Plan
from aqd_deploy.quantization.progress import Run
from aqd_deploy.quantization.quantizer import QuantizerParameters
from aqd_deploy.quantization.write_qdq import write_qdq

POWERS = (1.0, 1.5, 2.0, 2.4, 3.0, 4.0, 6.0)


@dataclass(frozen=True)
class DetPtq:
    """`images` are how many of the calibration images the losses are of; their tensors are kept in memory."""

    images: float

    def choose(self, plan: Plan, calibration: Calibration, run: Run) -> Chosen:
        """The quantizer of every site of the plan."""
        loss = loss_for(read_manifest(plan.network.model))
        if isinstance(loss, MeanSquare):
            run.warn("the network is no detector of maps: detptq chose by the mean square of its outputs")
        search = _Search(plan, list(calibration.first(int(self.images)).feeds()), loss)
        for site in run.steps("choosing", plan.sites):
            kept = run.state.once(
                f"detptq {site.tensor} {site.role.name}", lambda site=site: search.find(site)
            )
            search.chosen[site] = QuantizerParameters(
                kept["scale"], plan.bits[site], bool(kept["signed"]), int(kept["zero_point"])
            )
        return search.chosen


class _Search:
    """The network while it is quantized front to back. `there` are the tensors in front of the site that was
    looked at last, for each image.
    """

    def __init__(self, plan: Plan, feeds: Sequence[Outputs], loss: OutputLoss) -> None:
        self.plan, self.loss = plan, loss
        self.parts = Parts(plan.network.model)
        self.chosen: Chosen = {}
        self.there = list(feeds)
        self.reference = self._run(self.parts.outputs, {})

    def find(self, site: Site) -> Mapping[str, np.ndarray]:
        """The quantizer of least loss: `scale`, `signed`, `zero_point`."""
        self.there = self._run(self.parts.live(site.readers), self.chosen)
        candidates = self._candidates(site)
        losses = [
            self.loss(self.reference, self._run(self.parts.outputs, {**self.chosen, site: each}))
            for each in candidates
        ]
        best = candidates[int(np.argmin(losses))]
        return {
            "scale": best.scale, "signed": np.array(best.signed), "zero_point": np.array(best.zero_point)
        }  # fmt: skip

    def _candidates(self, site: Site) -> list[QuantizerParameters]:
        """The best quantizer by each power."""
        bits = self.plan.bits[site]
        if site.is_weight:
            axis = self.plan.scale_axis(site)
            return quantizers(
                Points.of_weights(self.plan.network.array(site.tensor), axis), bits, True, POWERS, axis
            )
        values = [each[site.tensor].reshape(-1) for each in self._run([site.tensor], self.chosen)]
        low, high = (float(end) for end in (min(v.min() for v in values), max(v.max() for v in values)))
        counts, edges = np.histogram(np.concatenate(values), BINS, (low, high if high > low else low + 1))
        signed = self.plan.recipe.symmetric and low < 0
        return quantizers(Points.of_histogram(counts, edges), bits, signed, POWERS)

    def _run(self, wanted: Sequence[str], quantizers: Chosen) -> list[Outputs]:
        """Tensors of the network with these quantizers, from what is there, for each image."""
        model = write_qdq(self.plan.network, quantizers)
        return self.parts.run(model, wanted, self.there)
