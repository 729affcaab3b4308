"""Attributes of an integer file's nodes: their types, their defaults and the values that are allowed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onnx import AttributeProto, NodeProto, TensorProto, helper

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.integer.domain import INT32_MAX, INT32_MIN

_KINDS: dict[int, str] = {
    AttributeProto.INT: "an integer",
    AttributeProto.INTS: "integers",
    AttributeProto.STRING: "a word",
}


@dataclass(frozen=True)
class Attribute:
    """What an attribute may hold.

    `default` is its value where it is left out, `required` that it may not be; `count` the number of values
    of a list, each from `low` to `high`; `choices` all that are allowed, where not every number is.
    """

    kind: AttributeProto.AttributeType
    default: Any = None
    required: bool = False
    count: int = 1
    low: int = 0
    high: int = INT32_MAX
    choices: tuple[Any, ...] = ()

    def refusal(self, value: Any) -> str | None:
        """What would be valid in place of `value`; None where it is."""
        if self.choices:
            return None if value in self.choices else " or ".join(str(choice) for choice in self.choices)
        values = value if self.kind == AttributeProto.INTS else [value]
        if len(values) == self.count and all(self.low <= v <= self.high for v in values):
            return None
        count = "a number" if self.kind == AttributeProto.INT else f"{self.count} numbers"
        return f"{count} from {self.low} to {self.high}"


def pair(default: tuple[int, int] | None = (1, 1)) -> Attribute:
    """Rows and columns, from 1; required without a default."""
    return Attribute(AttributeProto.INTS, default, required=default is None, count=2, low=1)


PADS = Attribute(AttributeProto.INTS, (0, 0, 0, 0), count=4)
"""Top, left, bottom, right."""

IMAGE_PADS = Attribute(AttributeProto.INTS, required=True, count=8)
GROUP = Attribute(AttributeProto.INT, 1, low=1)
CODE = Attribute(AttributeProto.INT, required=True, low=INT32_MIN)
CODE_TYPE = Attribute(AttributeProto.INT, required=True, choices=(TensorProto.UINT8, TensorProto.INT8))
STREAM_TYPE = Attribute(AttributeProto.INT, required=True, choices=(TensorProto.INT32,))
CHANNEL_AXIS = Attribute(AttributeProto.INT, required=True, choices=(1, -3))
ZERO = Attribute(AttributeProto.INT, 0, choices=(0,))
AUTO_PAD = Attribute(AttributeProto.STRING, "NOTSET", choices=("NOTSET", "VALID"))
KERNEL = Attribute(AttributeProto.INTS, count=2, low=1)
NO_DILATIONS = Attribute(AttributeProto.INTS, (1, 1), count=2, low=1, high=1)


def word(value: str) -> Attribute:
    """A string that must be there and be `value`."""
    return Attribute(AttributeProto.STRING, required=True, choices=(value,))


def read_attributes(proto: NodeProto, rules: Mapping[str, Attribute], label: str) -> dict[str, Any]:
    """All attributes of a node of which `rules` are the allowed ones, those left out at their defaults.

    Raises UnsupportedModelError for one that is unknown, given twice, of another type, missing, or out of
    its range.
    """
    values: dict[str, Any] = {}
    for attribute in proto.attribute:
        rule = rules.get(attribute.name)
        if rule is None or attribute.name in values:
            raise UnsupportedModelError(
                f"{label} has an attribute {'twice' if rule else 'that the dialect does not know'}",
                received=repr(attribute.name),
                valid=", ".join(rules) or "no attributes",
            )
        if attribute.type != rule.kind or attribute.ref_attr_name:
            raise UnsupportedModelError(
                f"the attribute {attribute.name} of {label} has another type", valid=_KINDS[rule.kind]
            )
        value = _value(attribute)
        valid = rule.refusal(value)
        if valid is not None:
            raise UnsupportedModelError(
                f"the attribute {attribute.name} of {label} has a value outside the dialect",
                received=str(value)[:80],
                valid=valid,
            )
        values[attribute.name] = value
    for name, rule in rules.items():
        if name not in values and rule.required:
            raise UnsupportedModelError(f"{label} has no attribute {name}", valid=", ".join(rules))
    return {name: values.get(name, rule.default) for name, rule in rules.items()}


def _value(attribute: AttributeProto) -> Any:
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return tuple(value) if attribute.type == AttributeProto.INTS else value
