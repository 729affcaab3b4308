"""A recipe for a network: which tensors get quantizers, and of how many bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.quantization.network import Network
from aqd_deploy.quantization.placement import Placement, Role, Site, missing
from aqd_deploy.quantization.recipe import Recipe

OTHER_BITS = 8
"""Of the network's input, and of codes that no layer reads: they cost next to nothing."""


@dataclass(frozen=True)
class Plan:
    """`bits` of every site; of one that several layers read the most that one of them asks for. `described`
    are the entries `preprocessing` and `detector` of a manifest, for a network whose file has none.
    """

    network: Network
    recipe: Recipe
    placement: Placement
    bits: dict[Site, int]
    described: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, network: Network, recipe: Recipe, described: Mapping[str, Any] | None = None) -> Plan:
        """RecipeError for patterns that fit no layer, UnsupportedModelError where no layer is left."""
        recipe.check_patterns(layer.name for layer in network.layers)
        placement = missing(network.model, recipe.is_excluded)
        if not placement.layers:
            raise UnsupportedModelError(
                "no layer of the network can be quantized",
                received="; ".join(placement.left_float) or "a recipe that leaves all of them out",
                valid="layers with nothing in front of them that has no integer form",
            )
        bits = {
            layer.name: recipe.bits_of(
                layer.name, first=layer.name in placement.first, last=layer.name in placement.last
            )
            for layer in placement.layers
        }
        of_sites = {site: _bits(site, bits) for site in placement.sites}
        return cls(network, recipe, placement, of_sites, described or {})

    @property
    def sites(self) -> tuple[Site, ...]:
        """In topological order."""
        return self.placement.sites

    @property
    def activations(self) -> list[str]:
        """The tensors of the sites that are no weights, each once."""
        return list(dict.fromkeys(site.tensor for site in self.sites if not site.is_weight))

    def scale_axis(self, site: Site) -> int | None:
        """Along which axis a weight has a scale each; None for one scale."""
        return site.axis if self.recipe.per_channel else None


def _bits(site: Site, bits: dict[str, tuple[int, int]]) -> int:
    if not site.layers or site.role in (Role.IMAGE, Role.OPERAND):
        return OTHER_BITS
    return max(bits[name][0 if site.is_weight else 1] for name in site.layers)
