"""What is known while a Darknet network is built: the graph, the weights, and what every layer has made."""

from __future__ import annotations

from dataclasses import dataclass, field

from aqd_deploy.errors import ModelFileError
from aqd_deploy.frontends.darknet.cfg import Section
from aqd_deploy.frontends.darknet.weights import Weights
from aqd_deploy.frontends.graph import GraphBuilder


@dataclass(frozen=True)
class FeatureMap:
    """A tensor [1, channels, height, width] by its name in the graph."""

    name: str
    channels: int
    height: int
    width: int


@dataclass(frozen=True)
class Head:
    """A section that says what the map in front of it means."""

    section: Section
    map: FeatureMap


@dataclass
class Network:
    """`maps` are what the layers made so far, by Darknet's numbers: [net] is none, every other section is
    one.
    """

    graph: GraphBuilder
    weights: Weights
    image: FeatureMap
    maps: list[FeatureMap] = field(default_factory=list)
    heads: list[Head] = field(default_factory=list)

    @property
    def last(self) -> FeatureMap:
        """What the next layer reads."""
        return self.maps[-1] if self.maps else self.image

    def name(self, section: Section) -> str:
        """The name of the layer that is made of `section`."""
        return f"{len(self.maps)}_{section.name}"

    def at(self, section: Section, key: str, number: int) -> FeatureMap:
        """The map of a layer by number: from the beginning, or, negative, back from the one that is being
        made. Raises ModelFileError where there is none.
        """
        index = number if number >= 0 else len(self.maps) + number
        if not 0 <= index < len(self.maps):
            raise ModelFileError(
                f"{section.place} reads a layer that is not in front of it", received=f"{key}={number}",
                valid=f"0 to {len(self.maps) - 1}, or -{len(self.maps)} to -1",
            )  # fmt: skip
        return self.maps[index]
