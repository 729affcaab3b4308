"""Which of a convolution's thousands of listed choices are worth a measurement, and in which order.

Half of the proposals explore: the choices that the cost model likes, but none that is a neighbour of one
already tried. The cost models of two kinds of kernel do not compare well, so each kind (family, and form
where it has one) keeps its own order and the better kinds are asked more often. The other half are neighbours
of the best choice so far: those that differ in at most two parameters.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from aqd_deploy.kernels.contract.choice import Choice

# Neighbours differ in at most this many parameters: one number that fixes another changes two.
_NEAR = 2
# Kind k of n, in the cost model's order, proposes every (1 + 2k)-th as often as the first.
_KIND_STEP = 2
# Choices of one kind that are ever looked at.
_DEEPEST = 400


class Space:
    """The choices of one task. `choices` come as `conv_choices` lists them, the default first."""

    def __init__(self, choices: Sequence[Choice]) -> None:
        self.choices = choices
        self.tried: set[Choice] = set()
        self._known = set(choices)
        self._exploration = deque(_exploration(choices))

    def __len__(self) -> int:
        return len(self.choices)

    def __contains__(self, choice: Choice) -> bool:
        return choice in self._known

    @property
    def exhausted(self) -> bool:
        """Whether every choice was tried."""
        return self._known <= self.tried

    def propose(self, best: Choice, count: int, hints: Iterable[Choice] = ()) -> list[Choice]:
        """Up to `count` untried choices, `hints` first; they count as tried from now on."""
        found: list[Choice] = []
        for source in (iter(hints), self._neighbours(best, count // 2), self._explore(), iter(self.choices)):
            for choice in source:
                if len(found) == count:
                    break
                if choice in self._known and choice not in self.tried:
                    found.append(choice)
                    self.tried.add(choice)
        return found

    def _neighbours(self, best: Choice, count: int) -> Iterator[Choice]:
        near = (c for c in self.choices if c not in self.tried and distance(best, c) <= _NEAR)
        for _, choice in zip(range(count), near, strict=False):
            yield choice

    def _explore(self) -> Iterator[Choice]:
        # A choice near one that was tried stays so, and is never looked at again.
        while self._exploration:
            choice = self._exploration[0]
            if all(distance(choice, other) > _NEAR for other in self.tried):
                yield choice
            else:
                self._exploration.popleft()


def distance(first: Choice, second: Choice) -> int:
    """In how many parameters two choices differ; more than there are for two families."""
    if first.family != second.family:
        return 1 + max(len(first.parameters), len(second.parameters), _NEAR)
    return sum(a != b for a, b in zip(first.parameters, second.parameters, strict=True))


def _exploration(choices: Sequence[Choice]) -> list[Choice]:
    """The choices of all kinds, merged."""
    kinds: dict[tuple[str, int], list[Choice]] = {}
    for choice in choices:
        kinds.setdefault((choice.family, dict(choice.parameters).get("form", 0)), []).append(choice)
    # A family without parameters is what is left where no other applies.
    tunable = [members for members in kinds.values() if members[0].parameters]
    fallback = [members for members in kinds.values() if not members[0].parameters]
    ordered = [
        (rank * (1 + _KIND_STEP * index), index, choice)
        for index, members in enumerate(tunable)
        for rank, choice in enumerate(members[:_DEEPEST])
    ]
    merged = [choice for _, _, choice in sorted(ordered, key=lambda entry: entry[:2])]
    return merged + [choice for members in fallback for choice in members]
