"""What a JSON document has to look like, said once and checked where the document is read.

A check is a function of a value and of the place it stands at; it raises SchemaError, whose text names the
place, what is there and what would be valid. `table` lets keys pass that it does not know: documents of newer
versions have more of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any

from aqd_deploy.errors import AqdError

Check = Callable[[Any, str], None]
LARGEST = (1 << 63) - 1
_SHOWN = 60


class SchemaError(ValueError):
    """A value that is not what its place asks for: `place`, `received` (None where it is missing),
    `valid`.
    """

    def __init__(self, place: str, value: object, valid: str, *, missing: bool = False) -> None:
        shown = repr(value)
        self.place, self.valid, self.missing = place, valid, missing
        self.received = None if missing else shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"
        super().__init__(f"{place} is missing" if missing else f"{place} is {self.received}, not {valid}")

    def of(self, owner: str, kind: type[AqdError], next_command: str | None = None) -> AqdError:
        """The same as an error of `kind`, about a document that is called `owner` ("the manifest of
        m.so").
        """
        what = (
            f"{owner} has no {self.place}"
            if self.missing
            else f"{owner} has no valid {self.place or 'content'}"
        )
        return kind(what, received=self.received, valid=self.valid or None, next_command=next_command)


def text(value: Any, place: str) -> None:
    """A text."""
    if not isinstance(value, str):
        raise SchemaError(place, value, "a text")


def anything(value: Any, place: str) -> None:
    """Whatever JSON has."""


def whole(low: int = 0, high: int = LARGEST) -> Check:
    """A whole number from `low` to `high`."""

    def check(value: Any, place: str) -> None:
        is_whole = isinstance(value, Integral) and not isinstance(value, bool)
        if not is_whole or not low <= value <= high:
            raise SchemaError(place, value, f"a whole number from {low} to {high}")

    return check


def number(low: float = -math.inf, high: float = math.inf, *, above: float = -math.inf) -> Check:
    """A finite number from `low` to `high` and greater than `above`."""

    def check(value: Any, place: str) -> None:
        is_number = isinstance(value, Real) and not isinstance(value, bool)
        if not is_number or not (low <= value <= high and value > above and abs(value) <= 1.7e308):
            raise SchemaError(place, value, _numbers(low, high, above))

    return check


def _numbers(low: float, high: float, above: float) -> str:
    if above > -math.inf:
        limits = f" greater than {above:g}" + (f" up to {high:g}" if high < math.inf else "")
    elif high < math.inf:
        limits = f" from {low:g} to {high:g}"
    else:
        limits = f" of at least {low:g}" if low > -math.inf else ""
    return f"a finite number{limits}"


def one_of(*values: Any) -> Check:
    """One of these."""

    def check(value: Any, place: str) -> None:
        if not any(type(value) is type(each) and value == each for each in values):
            raise SchemaError(place, value, "one of " + ", ".join(map(repr, values)))

    return check


def nothing_or(inner: Check) -> Check:
    """null, or what `inner` wants."""

    def check(value: Any, place: str) -> None:
        if value is not None:
            inner(value, place)

    return check


def list_of(inner: Check, least: int = 0, most: int | None = None) -> Check:
    """A list (or tuple) of at least `least` and at most `most` values that `inner` wants."""

    def check(value: Any, place: str) -> None:
        if not isinstance(value, list | tuple):
            raise SchemaError(place, value, "a list")
        if len(value) < least or (most is not None and len(value) > most):
            wanted = f"{least}" if most == least else f"{least} to {most}" if most else f"at least {least}"
            raise SchemaError(place, value, f"a list of {wanted} values")
        for index, each in enumerate(value):
            inner(each, f"{place}[{index}]")

    return check


def one_or_list(inner: Check) -> Check:
    """What `inner` wants, or a list with at least one of it."""
    many = list_of(inner, 1)

    def check(value: Any, place: str) -> None:
        (many if isinstance(value, list | tuple) else inner)(value, place)

    return check


def table_of(inner: Check) -> Check:
    """An object whose values `inner` wants, whatever their keys."""

    def check(value: Any, place: str) -> None:
        _check_is_table(value, place)
        for key, each in value.items():
            inner(each, _inside(place, key))

    return check


def table(required: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """An object with the keys of `required`, maybe those of `optional`, and any others."""

    def check(value: Any, place: str) -> None:
        _check_is_table(value, place)
        for key, inner in required.items():
            if key not in value:
                raise SchemaError(_inside(place, key), None, "", missing=True)
            inner(value[key], _inside(place, key))
        for key, inner in (optional or {}).items():
            if key in value:
                inner(value[key], _inside(place, key))

    return check


def _check_is_table(value: Any, place: str) -> None:
    if not isinstance(value, dict):
        raise SchemaError(place, value, "an object")


def _inside(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key
