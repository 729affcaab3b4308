"""One way to build a kernel: its family and the numbers that the family can be tuned in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Choice:
    """`family` is a name that the backend knows; `parameters` are (name, value) pairs, sorted by name."""

    family: str
    parameters: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(cls, family: str, /, **parameters: int) -> Choice:
        """The choice of a family with these parameters."""
        return cls(family, tuple(sorted(parameters.items())))

    @classmethod
    def from_json(cls, value: Mapping[str, int | str]) -> Choice:
        """The inverse of `to_json`. Raises KeyError, TypeError or ValueError for anything else."""
        rest = {str(key): int(number) for key, number in value.items() if key != "family"}
        return cls.of(str(value["family"]), **rest)

    def to_json(self) -> dict[str, int | str]:
        """{"family": …, parameter: number, …}."""
        return {"family": self.family, **dict(self.parameters)}

    def __getitem__(self, name: str) -> int:
        return dict(self.parameters)[name]

    def __str__(self) -> str:
        numbers = " ".join(f"{name}={value}" for name, value in self.parameters)
        return f"{self.family}({numbers})"
