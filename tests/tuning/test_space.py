"""Proposals: every choice at most once, likely ones first, neighbours of the best, and all in the end."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aqd_deploy.kernels.contract.choice import Choice
from aqd_deploy.tuning.space import Space, distance

BLOCKED = [
    Choice.of("blocked", rows=r, tile=t, blocks=b) for r in (8, 4, 2) for t in (6, 5) for b in (2, 1, 4)
]
WINOGRAD = [Choice.of("winograd", form=f, group=g) for g in (90, 54) for f in (2, 3)]
FALLBACK = [Choice("loops")]
CHOICES = WINOGRAD[:2] + BLOCKED + WINOGRAD[2:] + FALLBACK


@given(st.lists(st.integers(1, 9), min_size=1, max_size=40))
def test_nothing_twice_and_everything_in_the_end(counts):
    space = Space(CHOICES)
    seen = []
    for count in counts:
        proposed = space.propose(CHOICES[0], count)
        assert len(proposed) == min(count, len(CHOICES) - len(seen))
        seen += proposed
    assert len(set(seen)) == len(seen)
    assert space.exhausted == (len(seen) == len(CHOICES))


def test_hints_come_first_unless_they_are_no_choices():
    space = Space(CHOICES)
    hint, foreign = BLOCKED[7], Choice.of("blocked", rows=99, tile=6, blocks=2)
    assert space.propose(CHOICES[0], 4, [foreign, hint, hint])[0] == hint
    assert hint not in space.propose(CHOICES[0], 40, [hint])


def test_half_are_neighbours_of_the_best():
    space = Space(CHOICES)
    best = BLOCKED[0]
    space.tried.add(best)
    near = [choice for choice in space.propose(best, 8) if distance(best, choice) <= 2]
    assert len(near) >= 4


def test_every_kind_has_its_turn_and_the_fallback_is_the_last():
    space = Space(CHOICES)
    first = space.propose(CHOICES[0], 4)
    assert {choice.family for choice in first} == {"winograd", "blocked"}
    assert FALLBACK[0] in space.propose(CHOICES[0], len(CHOICES))
