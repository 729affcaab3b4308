"""What a JSON document has to look like, said once and checked where the document is read.

A check is a function of a value and of the place it stands at; it raises SchemaError, whose text names the
place, what is there and what would be valid. `table` lets keys pass that it does not know: documents of newer
versions have more of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from typing import Any

from aqd_deploy.errors import AqdError

Check = Callable[[Any, str], None]
_JSON_SCHEMA = "json_schema"
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


def json_schema(check: Check) -> dict[str, Any]:
    """What `check` asks for as JSON Schema (draft 2020-12); of a check that is not of this module nothing is
    said.
    """
    return dict(getattr(check, _JSON_SCHEMA, {}))


def _said(check: Check, **schema: Any) -> Check:
    """`check`, which knows what it asks for."""
    setattr(check, _JSON_SCHEMA, schema)
    return check


def text(value: Any, place: str) -> None:
    """A text."""
    if not isinstance(value, str):
        raise SchemaError(place, value, "a text")


def flag(value: Any, place: str) -> None:
    """true or false."""
    if not isinstance(value, bool):
        raise SchemaError(place, value, "true or false")


def anything(value: Any, place: str) -> None:
    """Whatever JSON has."""


_said(text, type="string")
_said(flag, type="boolean")
_said(anything)


def whole(low: int = 0, high: int = LARGEST) -> Check:
    """A whole number from `low` to `high`."""

    def check(value: Any, place: str) -> None:
        is_whole = isinstance(value, Integral) and not isinstance(value, bool)
        if not is_whole or not low <= value <= high:
            raise SchemaError(place, value, f"a whole number from {low} to {high}")

    return _said(check, type="integer", minimum=low, maximum=high)


def number(low: float = -math.inf, high: float = math.inf, *, above: float = -math.inf) -> Check:
    """A finite number from `low` to `high` and greater than `above`."""

    def check(value: Any, place: str) -> None:
        is_number = isinstance(value, Real) and not isinstance(value, bool)
        if not is_number or not (low <= value <= high and value > above and abs(value) <= 1.7e308):
            raise SchemaError(place, value, _numbers(low, high, above))

    limits = {"minimum": low, "maximum": high, "exclusiveMinimum": above}
    finite = {key: limit for key, limit in limits.items() if math.isfinite(limit)}
    return _said(check, type="number", **finite)


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

    return _said(check, enum=list(values))


def nothing_or(inner: Check) -> Check:
    """null, or what `inner` wants."""

    def check(value: Any, place: str) -> None:
        if value is not None:
            inner(value, place)

    return _said(check, anyOf=[{"type": "null"}, json_schema(inner)])


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

    limits = {"minItems": least} if most is None else {"minItems": least, "maxItems": most}
    return _said(check, type="array", items=json_schema(inner), **limits)


def one_or_list(inner: Check) -> Check:
    """What `inner` wants, or a list with at least one of it."""
    many = list_of(inner, 1)

    def check(value: Any, place: str) -> None:
        (many if isinstance(value, list | tuple) else inner)(value, place)

    return _said(check, anyOf=[json_schema(inner), json_schema(many)])


def table_of(inner: Check) -> Check:
    """An object whose values `inner` wants, whatever their keys."""

    def check(value: Any, place: str) -> None:
        _check_is_table(value, place)
        for key, each in value.items():
            inner(each, _inside(place, key))

    return _said(check, type="object", additionalProperties=json_schema(inner))


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

    keys = {**required, **(optional or {})}
    properties = {key: json_schema(inner) for key, inner in keys.items()}
    return _said(check, type="object", required=list(required), properties=properties)


def table_by(keys: Iterable[str], inner: Check) -> Check:
    """An object with some of `keys` and no others, whose values `inner` wants."""
    known = tuple(keys)

    def check(value: Any, place: str) -> None:
        _check_is_table(value, place)
        for key, each in value.items():
            if key not in known:
                raise SchemaError(_inside(place, key), each, "under one of " + ", ".join(known))
            inner(each, _inside(place, key))

    names, values = {"enum": list(known)}, json_schema(inner)
    return _said(check, type="object", propertyNames=names, additionalProperties=values)


def _check_is_table(value: Any, place: str) -> None:
    if not isinstance(value, dict):
        raise SchemaError(place, value, "an object")


def _inside(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key
