"""Channels of activations brought nearer to one range in front of a quantizer (Xiao et al., "SmoothQuant",
ICML 2023): one step for all of them leaves the small ones few codes, and weights can take the difference.

    x ── Q ── Conv(W)        x ── Mul(1/t) ── Q ── Conv(W·t)        t a number a channel

Where the tensor is a convolution's, or ReLU's and the like of one, that convolution has the product in its
weights, and nothing is computed. Of a sum of convolutions, a requantization has it in its constants. Behind
another function it costs a stream of straight pieces in the place of thresholds, so there it has to be worth
more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from onnx import helper

from aqd_deploy.passes.canonical.draft import Draft, is_standard
from aqd_deploy.quantization.calibration import Calibration
from aqd_deploy.quantization.equalise import input_axis, is_homogeneous, sizes_along
from aqd_deploy.quantization.network import Layer, Network
from aqd_deploy.quantization.observe import observe
from aqd_deploy.quantization.placement import Role, Site
from aqd_deploy.quantization.plan import Plan
from aqd_deploy.quantization.progress import Run
from aqd_deploy.quantization.quantizer import along

UNEVEN, UNEVEN_FUNCTIONS = 2.0, 8.0
"""From which unevenness on channels are scaled: of streams, and of functions, whose product costs time."""
_SHARE, _DEPTHWISE_SHARE = 0.5, 0.75
"""The part of a channel's difference that its weights take over. Those of a depthwise layer have a step for
each channel that is free to differ; what is left to them is room for values that no image showed.
"""
_LEAST = 1 / 64
"""The smallest t. A channel that calibration hardly saw may be larger tomorrow."""


@dataclass(frozen=True)
class Place:
    """Where a product goes: in front of what reads the tensor `at`, or into `maker`, whose output that is.
    `is_dear`: it takes a stream of straight pieces.
    """

    at: str
    maker: Layer | None
    is_dear: bool


class _Places:
    """Finds the places of a network."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.nodes = {name: node for node in network.model.graph.node for name in node.output}
        self.outputs = {value.name for value in network.model.graph.output}
        self.makers = {layer.output: layer for layer in network.layers}

    def of(self, site: Site, layers: tuple[Layer, ...]) -> Place:
        """Through f with f(s·x) = s·f(x) as far to the front as nobody else reads what lies there."""
        network, nodes, outputs = self.network, self.nodes, self.outputs
        name, others = site.tensor, network.readers_of(site.tensor) > len(layers)
        while not others and name not in outputs and name in nodes and is_homogeneous(network, nodes[name]):
            name = nodes[name].input[0]
            others = network.readers_of(name) > 1
        if others or name in outputs:
            bent = site.tensor in nodes and is_standard(nodes[site.tensor], "LeakyRelu", "PRelu")
            return Place(site.tensor, None, site.of_function or bent)
        maker = self.makers.get(name)
        own = maker is not None and _is_own(network, maker)
        return Place(name, maker if own else None, site.of_function)


@dataclass(frozen=True)
class Uneven:
    """A tensor whose channels have unlike ranges: [C] `high`, the largest absolute values, all above 0; and
    the layers that read its codes.
    """

    site: Site
    layers: tuple[Layer, ...]
    high: np.ndarray
    place: Place

    @property
    def unevenness(self) -> float:
        """The largest range over the geometric mean of all."""
        return float(self.high.max() / np.exp(np.log(self.high).mean()))

    @property
    def worth_it(self) -> bool:
        """Whether scaling gains more than it costs."""
        return self.unevenness >= (UNEVEN_FUNCTIONS if self.place.is_dear else UNEVEN)


def uneven_inputs(plan: Plan, calibration: Calibration, run: Run) -> list[Uneven]:
    """The inputs of layers that are worth scaling; one pass over the images, which methods share."""
    found = {site: layers for site in plan.sites if (layers := _layers(plan, site))}
    seen = observe(plan.network.model, plan.activations, calibration, run) if found else {}
    uneven, places = [], _Places(plan.network)
    for site, layers in found.items():
        ranges = seen[site.tensor]
        high = np.maximum(np.abs(ranges.channel_low), np.abs(ranges.channel_high)).astype(np.float64)
        if not high.any():
            continue
        # A channel that nothing was seen of stays as it is.
        high = np.where(high > 0, high, high.max())
        each = Uneven(site, layers, high, places.of(site, layers))
        uneven += [each] if each.worth_it else []
    return uneven


def with_scaled_inputs(plan: Plan, uneven: Iterable[Uneven]) -> Network:
    """The same function: every tensor through a product of its own, and what reads it with other weights."""
    weights = _Weights(plan.network)
    products: list[tuple[Uneven, np.ndarray]] = []
    for each in uneven:
        factors = _factors(plan, weights, each)
        for layer in each.layers:
            weights.multiply(layer.weight, factors, input_axis(layer))
        maker = each.place.maker
        if maker is None:
            rank = weights[each.layers[0].weight].ndim
            products.append((each, along(1 / factors, rank, 1)))
            continue
        weights.multiply(maker.weight, 1 / factors, maker.axis)
        if maker.bias is not None:
            weights.multiply(maker.bias, 1 / factors, 0)
    draft = Draft(plan.network.with_arrays(weights.changed).model)
    for each, by in products:
        _multiply(draft, each, by)
    return Network(draft.write())


class _Weights:
    """The constants of a network in float64, with what was changed of them."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.changed: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        return self.changed[name] if name in self.changed else self.network.array(name).astype(np.float64)

    def multiply(self, name: str, factors: np.ndarray, axis: int) -> None:
        """Factors [C] along an axis."""
        array = self[name]
        self.changed[name] = array * along(factors, array.ndim, axis)


def _multiply(draft: Draft, uneven: Uneven, by: np.ndarray) -> None:
    """A product in front of what reads the place: one homogeneous function, or the layers."""
    at, outputs = uneven.place.at, {layer.output for layer in uneven.layers}
    constant = draft.constant(f"{at}_by", by.astype(np.float32))
    output = draft.names.fresh(f"{at}_scaled")
    product = helper.make_node("Mul", [at, constant], [output], name=output)
    moved = at != uneven.site.tensor
    nodes = list(draft.nodes)
    readers = [node for node in nodes if at in node.input and (moved or node.output[0] in outputs)]
    for node in readers:
        node.input[0] = output
    first = min(nodes.index(node) for node in readers)
    draft.nodes = [*nodes[:first], product, *nodes[first:]]


def _is_own(network: Network, maker: Layer) -> bool:
    """Whether output channels of a layer can be scaled: its constants are nobody else's."""
    constants = [name for name in (maker.weight, maker.bias) if name]
    whole = maker.op_type == "Conv" or (maker.op_type == "ConvTranspose" and maker.group == 1)
    return whole and all(network.is_constant(name) and network.readers_of(name) == 1 for name in constants)


def _layers(plan: Plan, site: Site) -> tuple[Layer, ...]:
    """The convolutions that read the codes of a site, () where something else does, or where their weights
    are not their own.
    """
    if site.role is not Role.LAYER_INPUT:
        return ()
    layers = tuple(layer for layer in plan.placement.layers if layer.name in site.layers)
    alone = {reader.node for reader in site.readers} == {layer.output for layer in layers}
    fits = alone and all(_takes_factors(plan.network, layer) for layer in layers)
    return layers if fits else ()


def _takes_factors(network: Network, layer: Layer) -> bool:
    """Whether a layer has weights of its own for each input channel."""
    if layer.op_type != "Conv" or network.readers_of(layer.weight) > 1:
        return False
    out, inside = network.array(layer.weight).shape[:2]
    return layer.group == 1 or (layer.group == out and inside == 1)


def _factors(plan: Plan, constants: _Weights, uneven: Uneven) -> np.ndarray:
    """t [C] = x^a / w^(1 − a) with the ranges of the channel and of its weights, the largest one 1."""
    weights = np.zeros_like(uneven.high)
    for layer in uneven.layers:
        weights = np.maximum(weights, sizes_along(constants[layer.weight], input_axis(layer)))
    # What no weight reads may be scaled as anything else.
    weights = np.where(weights > 0, weights, weights.max() or 1.0)
    free = plan.recipe.per_channel and all(layer.group > 1 for layer in uneven.layers)
    share = _DEPTHWISE_SHARE if free else _SHARE
    factors = uneven.high**share / weights ** (1 - share)
    return np.maximum(factors / factors.max(), _LEAST)
