"""What its quantizers do to each layer alone: beside every float layer runs a quantized copy of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper

from aqd_deploy.passes.canonical.draft import Draft, copy_of, is_standard
from aqd_deploy.quantization.calibration import Calibration
from aqd_deploy.quantization.network import Layer
from aqd_deploy.quantization.noise import decibels
from aqd_deploy.quantization.placement import Role, Site
from aqd_deploy.quantization.plan import Plan
from aqd_deploy.quantization.progress import Run
from aqd_deploy.quantization.quantizer import QuantizerParameters
from aqd_deploy.quantization.reductions import reduction
from aqd_deploy.quantization.session import Session, over
from aqd_deploy.quantization.write_qdq import write_qdq

IMAGES = 16
"""So many are enough for means over all pixels."""


@dataclass(frozen=True)
class LayerError:
    """Of a layer's output: the mean of what quantization adds, by channel [C], the mean square of it, and
    that of the float output.
    """

    shift: np.ndarray
    noise: float
    signal: float

    @property
    def decibels(self) -> float | None:
        """Signal to noise; None where there is no noise, or no signal."""
        return decibels(self.signal, self.noise)


def layer_errors(
    plan: Plan,
    chosen: Mapping[Site, QuantizerParameters],
    codes: Mapping[Site, np.ndarray] | None,
    calibration: Calibration,
    run: Run,
) -> dict[str, LayerError]:
    """By layer name, over the first images. Each layer reads what the float network makes, quantized."""
    beside = _Beside(plan, write_qdq(plan.network, chosen, codes))
    names = {layer.name: beside.reductions(layer) for layer in plan.placement.layers}
    session = Session(beside.model(), [name for of_layer in names.values() for name in of_layer], threads=1)
    sums: dict[str, np.ndarray] = {}
    images = calibration.first(IMAGES)
    for found in run.counted("errors of layers", over(session, images.feeds()), len(images)):
        for name, value in found.items():
            sums[name] = sums.get(name, 0) + value.astype(np.float64) / len(images)
    return {
        layer: LayerError(sums[shift].reshape(-1), float(sums[noise].mean()), float(sums[signal].mean()))
        for layer, (shift, noise, signal) in names.items()
    }


_MOVES = ("Clip", "Concat", "Flatten", "Gather", "MaxPool", "Pad", "Relu", "Reshape", "Slice", "Transpose")
"""What may stand between a quantizer and the layers that it is for."""


class _Beside:
    """The float network with the quantizers of `written` on its tensors, and quantized copies of its layers.

    `copies` are the tensors between a quantizer and a layer that are made of codes as well.
    """

    def __init__(self, plan: Plan, written: ModelProto) -> None:
        self.draft = Draft(copy.deepcopy(plan.network.model))
        self.ranks = {name: len(shape) for name, shape in self.draft.shapes.items()}
        self.layers = {layer.output for layer in plan.placement.layers}
        self.in_front = {
            reader.node
            for site in plan.sites
            if site.role in (Role.LAYER_INPUT, Role.IMAGE)
            for reader in site.readers
        }
        self.copies: dict[str, str] = {}
        self.nodes = list(self.draft.nodes)
        own = {name for node in self.nodes for name in node.output}
        codes = self._constants(written)
        for node in written.graph.node:
            if node.output[0] not in own:
                self._add(node, codes, node.output[0])
            elif node.output[0] in self.layers:
                self._add(node, self.copies, alone(node.output[0]))
            elif is_standard(node, *_MOVES) and (
                node.output[0] in self.in_front or node.input[0] in self.copies
            ):
                self.copies[node.output[0]] = alone(node.output[0])
                self._add(node, self.copies, alone(node.output[0]))

    def _constants(self, written: ModelProto) -> dict[str, str]:
        """Takes the new constants over; other names for codes of weights, whose names the float ones have."""
        renamed: dict[str, str] = {}
        for tensor in written.graph.initializer:
            known = self.draft.initializers.get(tensor.name)
            if known is not None and known.data_type == tensor.data_type:
                continue
            new = TensorProto()
            new.CopyFrom(tensor)
            if known is not None:
                new.name = renamed[tensor.name] = self.draft.names.fresh(f"{tensor.name}_codes")
            self.draft.initializers[new.name] = new
        return renamed

    def _add(self, node: NodeProto, names: Mapping[str, str], output: str) -> None:
        new = copy_of(node)
        new.input[:] = [names.get(name, name) for name in node.input]
        new.output[0] = new.name = output
        self.nodes.append(new)

    def reductions(self, layer: Layer) -> tuple[str, str, str]:
        """Means over all but the channels, [C] each: of the difference, its square, the square of the float
        output.
        """
        real, base = layer.output, alone(layer.output)
        axes = [axis for axis in range(self.ranks[real]) if axis != 1]
        difference, noise, signal = (f"{base}_{word}" for word in ("difference", "noise", "signal"))
        self.nodes += [
            helper.make_node("Sub", [base, real], [difference]),
            helper.make_node("Mul", [difference, difference], [noise]),
            helper.make_node("Mul", [real, real], [signal]),
        ]
        return self._mean(difference, axes), self._mean(noise, axes), self._mean(signal, axes)

    def _mean(self, name: str, axes: list[int]) -> str:
        self.nodes.append(reduction(self.draft, "ReduceMean", name, axes))
        return self.nodes[-1].output[0]

    def model(self) -> ModelProto:
        """All of it."""
        self.draft.nodes = self.nodes
        return self.draft.write()


def alone(name: str) -> str:
    """The tensor of a layer that runs beside the float one."""
    return f"{name}_alone"
