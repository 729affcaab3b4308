"""The three numerics modes of lowering side by side, on the same images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto

from aqd_deploy.errors import AqdError
from aqd_deploy.evaluation.agreement import Outputs, correlation, real_numbers
from aqd_deploy.evaluation.float64_network import Float64Network
from aqd_deploy.evaluation.lowered import Lowered
from aqd_deploy.evaluation.tensor_difference import Difference
from aqd_deploy.integer.manifest import read_manifest
from aqd_deploy.integer.reference import ReferenceRunner
from aqd_deploy.passes.numerics import MODES

Feeds = Mapping[str, np.ndarray]
Judge = Callable[[Outputs, dict[str, Any]], dict[str, float] | None]
"""Metrics of one variant's outputs (integers) and its manifest; None without annotations."""


@dataclass(frozen=True)
class NumericsRow:
    """What one mode makes of a network. `refused` is why it can't be lowered so, "" where it can, with all
    others None.

    `agreement` is of the outputs with those of the fake-quantized network in onnxruntime (`correlation`);
    `differing_codes` of all tensors of codes with those in float64, what the layers in front did included;
    `proven_share` of the requantized channels.
    """

    accuracy: dict[str, float] | None = None
    agreement: dict[str, float] | None = None
    differing_codes: dict[str, Any] | None = None
    proven_share: float | None = None
    refused: str = ""

    def told(self) -> dict[str, Any]:
        """JSON-able."""
        if self.refused:
            return {"refused": self.refused}
        return {
            "accuracy": self.accuracy,
            "agreement": self.agreement,
            "differing_codes": self.differing_codes,
            "proven_share": self.proven_share,
        }


def compare_numerics(
    qdq: ModelProto,
    images: Sequence[Feeds],
    fake: Outputs,
    judge: Judge,
    *,
    code_images: int = 2,
    threads: int | None = None,
    known: Mapping[str, Lowered] | None = None,
) -> dict[str, NumericsRow]:
    """A row for each of MODES: outputs over all of `images`, feeds by the names of the QDQ file's inputs;
    codes over the first `code_images` of them.

    `fake` are the outputs of the fake-quantized network for the images, `known` what is lowered already. What
    a mode refuses is told in its row. Raises AqdError where there are no images.
    """
    if not images:
        raise AqdError("there are no images to compare on", valid="at least one image")
    rows: dict[str, NumericsRow] = {}
    lowered: dict[str, Lowered] = {}
    for mode in MODES:
        try:
            lowered[mode] = (known or {}).get(mode) or Lowered.of(qdq, mode)
        except AqdError as error:
            rows[mode] = NumericsRow(refused=error.sentence())
    codes = _differing_codes(lowered, images[:code_images], threads)
    for mode, each in lowered.items():
        runner, manifest = ReferenceRunner(each.integer, threads), read_manifest(each.integer)
        outputs = [runner.run(each.codes(feeds)) for feeds in images]
        rows[mode] = NumericsRow(
            judge(outputs, manifest),
            correlation(real_numbers(outputs, manifest), fake),
            codes[mode].counted(),
            each.report["proven_share"],
        )
    return {mode: rows[mode] for mode in MODES}


def _differing_codes(
    lowered: Mapping[str, Lowered], images: Sequence[Feeds], threads: int | None
) -> dict[str, Difference]:
    """Of each mode; the float64 network runs once an image for all."""
    found = {mode: Difference() for mode in lowered}
    if not lowered:
        return found
    codes = {
        mode: {name: stands for name, stands in each.stands.items() if stands.is_codes}
        for mode, each in lowered.items()
    }
    first = next(iter(lowered.values()))
    wanted = {stands.source for each in codes.values() for stands in each.values()}
    network = Float64Network(first.canonical, wanted)
    runners = {
        mode: ReferenceRunner(each.integer, threads, with_intermediates=sorted(codes[mode]))
        for mode, each in lowered.items()
    }
    for feeds in images:
        exact = network.run(first.codes(feeds))
        for mode, runner in runners.items():
            own = lowered[mode].codes(feeds)
            integers = {**own, **runner.run(own)}
            for name, stands in codes[mode].items():
                of_image = Difference.of(stands, integers[name], exact[stands.source], with_noise=False)
                found[mode].join(of_image)
    return found
