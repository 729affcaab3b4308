"""What quantization does to each layer: a quantized file beside the float network that it was made of, over
images.

    alone         the layer's float input, quantized as the file does, through its quantized weights
    accumulated   the layer's output in the quantized network, where all layers before are quantized as well

Both against the layer's output in the float network: signal-to-noise 10·log10(Σ float² / Σ difference²) in
dB, and the cosine. The document is JSON-able; `reporting/comparison_view.py` shows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto

from aqd_deploy.errors import AqdError, ShapeError, UnsupportedModelError
from aqd_deploy.integer.reference import ReferenceRunner
from aqd_deploy.passes.canonical.draft import Draft
from aqd_deploy.quantization.against_integers import Integers
from aqd_deploy.quantization.layers import Match, layers_of, matched
from aqd_deploy.quantization.network import canonical_file
from aqd_deploy.quantization.noise import Noise, Usage
from aqd_deploy.quantization.pieces import constants_of, layers_alone, port_of, value_of
from aqd_deploy.quantization.remedies import remedies

SCHEMA = 1
Feeds = Mapping[str, np.ndarray]


@dataclass
class _Channels:
    """Per channel (axis 1), the least and the largest value of a tensor and of its quantized form."""

    ends: np.ndarray | None = None

    def add(self, plain: np.ndarray, fake: np.ndarray) -> None:
        """One image's."""
        flat = [np.moveaxis(each, 1, 0).reshape(each.shape[1], -1) for each in (plain, fake)]
        found = np.stack([end for each in flat for end in (-each.min(1), each.max(1))])
        self.ends = found if self.ends is None else np.maximum(self.ends, found)

    @property
    def silenced(self) -> int:
        """Channels that vary, but not as codes."""
        if self.ends is None:
            return 0
        plain, fake = self.ends[0] + self.ends[1], self.ends[2] + self.ends[3]
        return int(((plain > 0) & (fake == 0)).sum())


class _Sums:
    """What is collected of one layer over the images."""

    def __init__(self, match: Match) -> None:
        self.match = match
        self.alone, self.of_weights, self.accumulated = Noise(), Noise(), Noise()
        self.usage = None if match.quantized.activation is None else Usage(match.quantized.activation)
        self.channels = _Channels()
        self.shift: np.ndarray = np.zeros(())
        self.count = 0

    def fake(self, values: np.ndarray) -> np.ndarray:
        """A float input, [1, C, ...], as the file quantizes it."""
        steps, fake = self.match.quantized.activation, values
        if steps is not None and self.usage is not None:
            codes = steps.quantized(values)
            self.usage.add(codes)
            fake = steps.dequantized(codes)
        self.channels.add(values, fake)
        return fake

    def add(self, exact: np.ndarray, alone: np.ndarray, of_weights: np.ndarray, whole: np.ndarray) -> None:
        """The layer's output: exact, quantized alone, with quantized weights alone, in the quantized
        network.
        """
        self.alone.add(exact, alone)
        self.of_weights.add(exact, of_weights)
        self.accumulated.add(exact, whole)
        difference = (alone - exact).astype(np.float64)
        axes = tuple(axis for axis in range(difference.ndim) if axis != 1)
        self.shift = self.shift + difference.sum(axes)
        self.count += difference.size // difference.shape[1]

    def entry(self, ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
        """The layer in the document; its weights [O, ...] as quantized and as they were."""
        layer = self.match.quantized
        mean = self.shift / max(self.count, 1)
        constant = float(self.count * (mean**2).sum())
        sides = {"activation": None if self.usage is None else self.usage.told(), "weight": None}
        if layer.weight is not None:
            usage = Usage(layer.weight)
            usage.add(layer.weight.quantized(np.moveaxis(ours, 0, layer.weight_axis)))
            sides["weight"] = {**usage.told(), "scales": int(layer.weight.scale.size)}
        rows = [np.abs(each.reshape(len(each), -1)).max(1) for each in (ours, theirs)]
        silenced = int(((rows[0] == 0) & (rows[1] > 0)).sum())
        middle = float(np.median(rows[1]))
        return {
            "name": layer.label,
            "float_name": self.match.float.label,
            "matched_by": "name" if self.match.by_name else "order",
            "operator": layer.op_type,
            "output": layer.product,
            "weights": list(layer.shape),
            "codes": "" if layer.activation is None else layer.activation.codes,
            "alone": self.alone.told(),
            "alone_with_float_input": self.of_weights.told(),
            "accumulated": self.accumulated.told(),
            "constant_error": constant / self.alone.noise if self.alone.noise else 0.0,
            **sides,
            "dead_channels": {"input": self.channels.silenced, "output": silenced},
            "widest_output_channel": float(rows[1].max()) / middle if middle else None,
        }


def compare(
    quantized: ModelProto, network: ModelProto, images: Iterable[Feeds], *, integers: bool = True
) -> dict[str, Any]:
    """The document: `layers`, worst first, with `remedies`; `outputs`; how many layers were `matched`; and
    where the file can be lowered, how far its integers are from the fake-quantized numbers.

    `images` are feeds of both files, by the names of the quantized one's inputs. Raises UnsupportedModelError
    where no layer of one is a layer of the other, AqdError where there are no images.
    """
    ours, theirs = Draft(canonical_file(quantized)), Draft(canonical_file(network))
    layers, floats = layers_of(ours), layers_of(theirs)
    if all(layer.weight is None for layer in layers):
        raise UnsupportedModelError(
            "no layer of the file is quantized",
            received=f"{len(layers)} float layers",
            valid="a quantized file, and behind --compare the float one",
            next_command="aqd-deploy quantize FLOAT.onnx --calibration DIR -o m.qdq.onnx",
        )
    matches = matched(layers, floats)
    if not matches:
        raise UnsupportedModelError(
            "no layer of the one file is a layer of the other",
            received=f"{len(layers)} layers and {len(floats)}, of other names and shapes",
            valid="the float file that the quantized one was made of",
        )
    run = _Run(ours, theirs, matches)
    against = Integers.of(quantized, matches) if integers else None
    count = 0
    for feeds in images:
        values = run.image(feeds)
        if against is not None:
            against.image(feeds, values)
        count += 1
    if not count:
        raise AqdError("there are no images to compare on", valid="at least one image")
    entries = _entries(run)
    if against is not None:
        for entry in entries:
            entry["integers"] = against.of_layer(entry["codes"])
    for entry in entries:
        entry["remedies"] = remedies(entry)
    entries.sort(key=lambda entry: -(entry["alone"]["noise_ratio"] or 0.0))
    known = {id(match.quantized) for match in matches}
    return {
        "schema": SCHEMA,
        "images": count,
        "matched": {
            "by_name": sum(match.by_name for match in matches),
            "by_order": sum(not match.by_name for match in matches),
            "unmatched": [layer.label for layer in layers if id(layer) not in known],
        },
        "layers": entries,
        "outputs": {name: noise.told() for name, noise in run.outputs.items()},
        "integers": against.told() if against is not None else None,
    }


def _entries(run: _Run) -> list[dict[str, Any]]:
    pairs = zip(run.sums, run.weights(), strict=True)
    return [sums.entry(ours, theirs) for sums, (ours, theirs) in pairs]


class _Run:
    """Four models in onnxruntime: the float network, the quantized one, its layers on their own, and the
    weights of both.
    """

    def __init__(self, quantized: Draft, network: Draft, matches: list[Match]) -> None:
        self.matches, self.sums = matches, [_Sums(match) for match in matches]
        self._alone = ReferenceRunner(layers_alone(quantized, matches), as_written=True)
        self._weights = [
            ReferenceRunner(constants_of(draft, sorted({layer.weight_tensor for layer in layers})))
            for draft, layers in (
                (quantized, [match.quantized for match in matches]),
                (network, [match.float for match in matches]),
            )
        ]
        self._inputs = _paired("inputs", quantized.inputs, network.inputs)
        self._outputs = _paired("outputs", quantized.outputs, network.outputs)
        self.outputs = {name: Noise() for name in self._outputs}
        codes = {each.quantized.activation.codes for each in matches if each.quantized.activation}
        wanted = {match.outputs[0] for match in matches} | codes - {"", *quantized.inputs}
        self._quantized = ReferenceRunner(
            quantized.write(), with_intermediates=sorted(wanted), as_written=True
        )
        wanted = {name for match in matches for name in (match.outputs[1], match.float.input)}
        wanted -= set(network.inputs)
        # In the same arithmetic: a layer that stays float differs in nothing.
        self._float = ReferenceRunner(network.write(), with_intermediates=sorted(wanted), as_written=True)
        for ours, theirs in self._inputs.items():
            kinds = self._quantized.inputs[ours], self._float.inputs[theirs]
            if kinds[0] != kinds[1]:
                raise ShapeError(
                    f"the two files take the input {ours} in different forms",
                    received=" and ".join(f"{dtype} {list(shape)}" for shape, dtype in kinds),
                    valid="one shape and type: the float file that the quantized one was made of",
                )

    def image(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """Adds one image; returns the quantized network's tensors."""
        theirs = {other: feeds[name] for name, other in self._inputs.items() if name in feeds}
        exact = {**theirs, **self._float.run(theirs)}
        ours = {**feeds, **self._quantized.run(feeds)}
        plain = [exact[match.float.input].astype(np.float32) for match in self.matches]
        fake = [sums.fake(values) for sums, values in zip(self.sums, plain, strict=True)]
        alone, of_weights = (
            self._alone.run({port_of(index): values for index, values in enumerate(each)})
            for each in (fake, plain)
        )
        for index, (sums, match) in enumerate(zip(self.sums, self.matches, strict=True)):
            end = port_of(index, "out")
            sums.add(exact[match.outputs[1]], alone[end], of_weights[end], ours[match.outputs[0]])
        for name, noise in self.outputs.items():
            noise.add(exact[self._outputs[name]], ours[name])
        return ours

    def weights(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """The weights of each layer as dequantized and as they were, the output channels first."""
        ours, theirs = (runner.run({}) for runner in self._weights)
        return [
            (
                np.moveaxis(ours[value_of(match.quantized.weight_tensor)], match.quantized.weight_axis, 0),
                np.moveaxis(theirs[value_of(match.float.weight_tensor)], match.float.weight_axis, 0),
            )
            for match in self.matches
        ]


def _paired(what: str, ours: list[str], theirs: list[str]) -> dict[str, str]:
    """By name, or where names differ, in order. ShapeError where there are more of one than of the other."""
    if set(ours) == set(theirs):
        return {name: name for name in ours}
    if len(ours) != len(theirs):
        raise ShapeError(
            f"the two files have different {what}",
            received=f"{', '.join(ours)} and {', '.join(theirs)}",
            valid="the float file that the quantized one was made of",
        )
    return dict(zip(ours, theirs, strict=True))
