"""Adaptive rounding of a network's weights, layer by layer from the front; `rounding.py` rounds a layer."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from itertools import chain

import numpy as np
from onnx import NodeProto

from aqd_deploy.passes.canonical.draft import attribute
from aqd_deploy.quantization.calibration import Calibration, Feed
from aqd_deploy.quantization.methods.contract import Chosen
from aqd_deploy.quantization.network import Layer
from aqd_deploy.quantization.placement import Site
from aqd_deploy.quantization.plan import Plan
from aqd_deploy.quantization.progress import Run
from aqd_deploy.quantization.rounding import Inputs, learned_codes
from aqd_deploy.quantization.session import Session, over
from aqd_deploy.quantization.write_qdq import write_qdq

Codes = dict[Site, np.ndarray]
_PRODUCTS = ("Gemm", "MatMul")


def round_adaptively(
    plan: Plan, chosen: Chosen, calibration: Calibration, iterations: int, run: Run
) -> Codes:
    """Codes int64 of the weights, each of its weight's shape, of so many iterations a layer; `chosen` are the
    quantizers of all sites.

    Layers that share weights are one. The weights of transposed convolutions, and those that are not reached
    within the time budget, have no entry, which a warning tells.
    """
    by_weight = {site: [each for each in plan.placement.layers if each.weight == site.tensor]
                 for site in plan.sites if site.is_weight}  # fmt: skip
    nodes = {node.output[0]: node for node in plan.network.model.graph.node}
    codes: Codes = {}
    for site, layers in run.counted("adaptive rounding", iter(by_weight.items()), len(by_weight)):
        if run.time_is_up:
            run.warn(f"no time was left to round the weights from {site.tensor} on adaptively")
            break
        if not all(_has_columns(nodes[layer.output]) for layer in layers):
            run.warn(f"the weights {site.tensor} are rounded to the nearest codes, not adaptively")
            continue

        def learn(site: Site = site, layers: Sequence[Layer] = layers) -> dict[str, np.ndarray]:
            inputs = _inputs(plan, chosen, codes, layers, calibration)
            turned = np.moveaxis(plan.network.array(site.tensor), layers[0].axis, 0)
            found = learned_codes(turned, chosen[site], inputs, iterations)
            return {"codes": np.moveaxis(found, 0, layers[0].axis)}

        codes[site] = run.state.once(f"adaptive rounding {site.tensor}", learn)["codes"]
    return codes


def _has_columns(node: NodeProto) -> bool:
    """Whether `_columns` knows what each output of the node is a product of."""
    if node.op_type == "Conv":
        explicit = attribute(node, "auto_pad", "NOTSET") in ("NOTSET", "", "VALID")
        return explicit and len(attribute(node, "kernel_shape") or []) == 2
    return node.op_type in _PRODUCTS and not attribute(node, "transA", 0)


def _inputs(
    plan: Plan, chosen: Chosen, codes: Codes, layers: Sequence[Layer], calibration: Calibration
) -> Inputs:
    """What these layers read, in the float network and with all quantizers, over all images."""
    written = write_qdq(plan.network, chosen, codes)
    reads = {node.output[0]: node.input[0] for node in written.graph.node}
    plain = Session(plan.network.model, list(dict.fromkeys(layer.input for layer in layers)), threads=1)
    quantized = Session(written, list(dict.fromkeys(reads[layer.output] for layer in layers)), threads=1)
    nodes = {node.output[0]: node for node in plan.network.model.graph.node}

    def of_image(feed: Feed) -> list[Inputs]:
        real, rounded = plain(feed), quantized(feed)
        return [of_layer(layer, real, rounded) for layer in layers]

    def of_layer(layer: Layer, real: Feed, rounded: Feed) -> Inputs:
        x = _columns(nodes[layer.output], real[layer.input], layer)
        return Inputs.of(x, _columns(nodes[layer.output], rounded[reads[layer.output]], layer))

    return functools.reduce(operator.add, chain.from_iterable(over(of_image, calibration.feeds())))


def _columns(node: NodeProto, x: np.ndarray, layer: Layer) -> np.ndarray:
    """What each output of a layer is a product of, float32 [groups, K, positions]."""
    if node.op_type in _PRODUCTS:
        return x.reshape(-1, x.shape[-1]).T[None]
    explicit = attribute(node, "auto_pad", "NOTSET") != "VALID"
    top, left, bottom, right = (attribute(node, "pads") or [0] * 4) if explicit else [0] * 4
    kernel, strides, dilations = (
        attribute(node, name) or [1, 1] for name in ("kernel_shape", "strides", "dilations")
    )
    padded = np.pad(x[0], ((0, 0), (top, bottom), (left, right)))
    spans = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=(1, 2))
    taken = windows[:, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]
    columns = taken.transpose(0, 3, 4, 1, 2)  # channel, kernel, position
    return columns.reshape(layer.group, -1, columns.shape[3] * columns.shape[4])
