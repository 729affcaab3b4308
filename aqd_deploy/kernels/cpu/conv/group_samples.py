"""The input words of a vector of output channels that lie in several groups.

Lane l of block b is output channel b·lanes + l, of group (b·lanes + l) // (output channels a group). Where
groups fill vectors evenly and their inputs lie close, one load of all words and one shuffle spread them;
otherwise the words of the groups are broadcast one after the other, each over the lanes from its group on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx

from aqd_deploy.kernels.contract.spec import ConvSpec
from aqd_deploy.kernels.cpu.emit import Buffer, Emitter, Expr, broadcast, const, span
from aqd_deploy.kernels.cpu.isa.dot_product import DotProduct

# Words that one vector register of the narrowest kind can be loaded with and shuffled from.
SHUFFLED_WORDS = 16


@dataclass(frozen=True)
class GroupSamples:
    """`members`: groups that one vector may touch; `words`: those that a shuffle loads, 0 without shuffle."""

    dots: DotProduct
    group_in: int
    group_out: int
    members: int
    words: int

    @classmethod
    def of(cls, spec: ConvSpec, dots: DotProduct) -> GroupSamples:
        """How the vectors of `spec` get their samples."""
        group_in, group_out = spec.in_channels // spec.group, spec.out_channels // spec.group
        lanes = dots.lanes
        starts = range(0, spec.out_channels, lanes)
        members = max((at + lanes - 1) // group_out - at // group_out + 1 for at in starts)
        words = 0
        if lanes % group_out == 0 and group_in % dots.dot == 0:
            words = 1 << ((members - 1) * group_in // dots.dot).bit_length()
        return cls(dots, group_in, group_out, members, words if 1 < words <= SHUFFLED_WORDS else 0)

    @property
    def uops(self) -> int:
        """Vector operations a sample, besides its loads."""
        return 1 if self.words else 2 * (self.members - 1)

    @property
    def loads(self) -> int:
        return 1 if self.words else self.members

    @property
    def registers(self) -> int:
        """Vector registers that hold the shuffle or the lanes where groups begin."""
        return min(self.members - 1, 3) * self.dots.width

    @property
    def overread(self) -> int:
        """Samples that may be read behind those of the last group."""
        return self.members * self.group_in + SHUFFLED_WORDS * self.dots.dot

    def bind(self, em: Emitter, block: Expr) -> Callable[[Buffer, Expr], Expr]:
        """A function of (samples, index of a step's first sample in the pixel) to the operand of a product
        for the vector of channels `block`.
        """
        lanes = self.dots.lanes
        channel = em.bind("channel", block * lanes)
        group = em.bind("group", channel // self.group_out)
        first = em.bind("group_base", group * self.group_in)
        if self.words:
            return lambda samples, at: self._shuffled(samples, at + first)
        bounds = [em.bind("bound", (group + j) * self.group_out - channel) for j in range(1, self.members)]
        return lambda samples, at: self._blended(samples, at + first, bounds)

    def _shuffled(self, samples: Buffer, at: Expr) -> Expr:
        dots, lanes = self.dots, self.dots.lanes
        words = dots.words(samples, at, self.words)
        places = [const(lane // self.group_out * self.group_in // dots.dot) for lane in range(lanes)]
        return dots.from_words(tirx.Shuffle([words] * -(-lanes // self.words), places))

    def _blended(self, samples: Buffer, at: Expr, bounds: list[Expr]) -> Expr:
        lanes = self.dots.lanes
        value = self._word(samples, at)
        for j, bound in enumerate(bounds, 1):
            here = span(const(0), lanes) >= broadcast(bound, lanes)
            value = tirx.Select(here, self._word(samples, at + j * self.group_in), value)
        return self.dots.from_words(value)

    def _word(self, samples: Buffer, at: Expr) -> Expr:
        """A word of `dot` samples in every lane."""
        return broadcast(self.dots.words(samples, at, 1), self.dots.lanes)
