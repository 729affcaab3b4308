"""How far the integers of a lowered file are from the fake-quantized numbers that onnxruntime computes in
float32: the codes that layers read, and the outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto

from aqd_deploy.errors import AqdError
from aqd_deploy.integer.manifest import read_manifest
from aqd_deploy.integer.reference import ReferenceRunner
from aqd_deploy.passes.pipeline import lower
from aqd_deploy.quantization.layers import Match
from aqd_deploy.quantization.noise import Noise
from aqd_deploy.runtime.reals import dequantized, quantized


class Integers:
    """The lowered file; `refused` says why there is none, "" where there is one."""

    def __init__(self, model: ModelProto | None, refused: str, codes: Sequence[str]) -> None:
        self.refused = refused
        self._outputs: dict[str, Noise] = {}
        self._codes: dict[str, list[int]] = {}
        if model is None:
            return
        self._manifest = read_manifest(model)
        made = {name for node in model.graph.node for name in node.output}
        self._codes = {name: [0, 0, 0] for name in codes if name in made}
        self._runner = ReferenceRunner(model, with_intermediates=sorted(self._codes))
        names = {value.name for value in model.graph.output}
        self._outputs = {name: Noise() for name in self._manifest["outputs"] if name in names}

    @classmethod
    def of(cls, model: ModelProto, matches: Sequence[Match]) -> Integers:
        """Of a quantized file; what lowering can't take is told, not raised."""
        steps = [match.quantized.activation for match in matches]
        codes = sorted({each.codes for each in steps if each is not None} - {""})
        try:
            return cls(lower(model).model, "", codes)
        except AqdError as error:
            return cls(None, error.sentence(), codes)

    def image(self, feeds: Mapping[str, np.ndarray], values: Mapping[str, np.ndarray]) -> None:
        """Adds one image: what both networks were given, and the fake-quantized one's tensors."""
        if self.refused:
            return
        entries = self._manifest.get("inputs", {})
        own = {
            name: quantized(name, array, entries[name], entries[name]["dtype"])
            if name in entries and array.dtype.kind == "f"
            else array
            for name, array in feeds.items()
        }
        integers = self._runner.run(own)
        for name, totals in self._codes.items():
            if integers[name].shape != values[name].shape:
                # A vector became a map of pixels, in another order.
                continue
            steps = np.abs(integers[name].astype(np.int64) - values[name].astype(np.int64))
            totals[0] += int((steps > 0).sum())
            totals[1] += steps.size
            totals[2] = max(totals[2], int(steps.max(initial=0)))
        for name, noise in self._outputs.items():
            if name in values and values[name].size == integers[name].size:
                real = dequantized(name, integers[name], self._manifest["outputs"][name])
                noise.add(values[name], real)

    def of_layer(self, codes: str) -> dict[str, int] | None:
        """How many of the codes that a layer reads differ, of how many, and the most steps; None where the
        lowered file has no such tensor.
        """
        if codes not in self._codes or not self._codes[codes][1]:
            return None
        return dict(zip(("differing", "count", "most_steps"), self._codes[codes], strict=True))

    def told(self) -> dict[str, Any]:
        """Over all layers and outputs."""
        if self.refused:
            return {"refused": self.refused}
        totals = np.array(list(self._codes.values()) or [[0, 0, 0]])
        return {
            "differing": int(totals[:, 0].sum()),
            "count": int(totals[:, 1].sum()),
            "most_steps": int(totals[:, 2].max()),
            "outputs": {name: noise.told() for name, noise in self._outputs.items()},
        }
