"""How a convolution on tiles is cut, and which cut a cost model prefers.

The tiles of pixels are shared out in `pixel_parts`, the blocks of output channels in `channel_parts`; a task
is one of each. Inside, `high` tiles of pixels meet `wide` of output channels in registers. Pixels outside:
their samples stay near while all weights pass; weights outside (`weights_first`): the other way round.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Plan:
    """See the module."""

    pixel_parts: int
    channel_parts: int
    high: int = 2
    wide: int = 2
    weights_first: bool = False

    @property
    def tasks(self) -> int:
        return self.pixel_parts * self.channel_parts

    @property
    def sums(self) -> int:
        """Tiles of sums."""
        return self.high * self.wide

    def parameters(self) -> dict[str, int]:
        """The fields as numbers, by name (`contract.choice.Choice`)."""
        return {name: int(value) for name, value in asdict(self).items()}

    @classmethod
    def from_parameters(cls, values: Mapping[str, int]) -> Plan:
        """The inverse of `parameters`."""
        return cls(**{**values, "weights_first": bool(values["weights_first"])})
