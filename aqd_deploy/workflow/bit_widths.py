"""One network at many bit widths: the quantizers of every width are chosen once, and files of any mixture are
made of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from onnx import ModelProto

from aqd_deploy.quantization.calibration import Calibration
from aqd_deploy.quantization.methods import method_named
from aqd_deploy.quantization.methods.contract import Chosen
from aqd_deploy.quantization.network import Network
from aqd_deploy.quantization.placement import Placement, Role, Site
from aqd_deploy.quantization.plan import Plan
from aqd_deploy.quantization.progress import Run
from aqd_deploy.quantization.recipe import Recipe
from aqd_deploy.quantization.write_qdq import write_qdq


@dataclass(frozen=True)
class Unit:
    """What has one bit width: the layers of one weight, which are several in a head that levels share."""

    weight: str
    layers: tuple[str, ...]
    size: int

    @property
    def name(self) -> str:
        """For people."""
        more = len(self.layers) - 1
        return self.layers[0] if not more else f"{self.layers[0]} +{more}"


Widths = Mapping[str, int]
"""Bits by a unit's weight; a unit that is not in it stays float."""


class BitWidths:
    """A float network with the quantizers of each of `bits`."""

    def __init__(
        self, network: Network, recipe: Recipe, bits: Iterable[int], calibration: Calibration, run: Run,
        described: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """Raises what `Plan.of` and the recipe's method raise."""
        self.network, self.bits = network, tuple(sorted(bits))
        self._chosen: dict[int, Chosen] = {}
        for each in self.bits:
            plan = Plan.of(network, uniform(recipe, each), described)
            method = method_named(recipe.method, recipe.parameters)
            self._chosen[each] = method.choose(plan, calibration, run)
        self._placement: Placement = plan.placement
        by_weight: dict[str, list[str]] = {}
        for layer in plan.placement.layers:
            by_weight.setdefault(layer.weight, []).append(layer.name)
        self.units = tuple(
            Unit(weight, tuple(layers), int(network.array(weight).size))
            for weight, layers in by_weight.items()
        )
        self._weight_of = {layer: unit.weight for unit in self.units for layer in unit.layers}
        self._unit_of_node = {layer.output: layer.weight for layer in plan.placement.layers}

    def everywhere(self, bits: int) -> dict[str, int]:
        """The same width for all units."""
        return {unit.weight: bits for unit in self.units}

    def model(self, widths: Widths) -> ModelProto:
        """The QDQ file in which the units of `widths` are quantized. The image and the operands of averages
        and products have 8 bits, and are left float where a layer is.
        """
        whole = len(widths) == len(self.units)
        chosen: Chosen = {}
        for site in self._placement.sites:
            bits = [
                widths[unit] for unit in {self._weight_of[each] for each in site.layers} if unit in widths
            ]
            if site.role in (Role.IMAGE, Role.OPERAND):
                if whole:
                    chosen[site] = self._chosen[self.bits[-1]][site]
            elif bits:
                chosen[self._within(site, widths)] = self._chosen[max(bits)][site]
        return write_qdq(self.network, chosen)

    def _within(self, site: Site, widths: Widths) -> Site:
        """The site without the readers that are layers that stay float."""
        kept = [
            reader
            for reader in site.readers
            if reader.node not in self._unit_of_node or self._unit_of_node[reader.node] in widths
        ]
        return replace(site, readers=tuple(kept))


def uniform(recipe: Recipe, bits: int) -> Recipe:
    """The recipe with one width for all layers, the first and the last as well."""
    return replace(
        recipe, weight_bits=bits, activation_bits=bits, first_bits=bits, last_bits=bits, overrides=()
    )
