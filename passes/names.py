"""The one owner of tensor names: what is made gets a name here, so it can't collide with one that exists."""

from __future__ import annotations

from collections.abc import Iterable

from aqd_deploy.integer.names import MAX_LENGTH

_LONGEST_BASE = MAX_LENGTH - 20
"""Leaves room for a number."""


class Names:
    """All names of one graph, those of the file and those that were made since."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)
        self._count = 0

    def fresh(self, base: str) -> str:
        """`base`, or `base_1`, `base_2`, ... where it is taken; taken from now on. A long base is cut."""
        base = base[:_LONGEST_BASE]
        name = base
        while name in self._taken:
            self._count += 1
            name = f"{base}_{self._count}"
        self._taken.add(name)
        return name
