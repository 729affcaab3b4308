"""The name and the versions of the integer dialect, and how far its integers may reach.

docs/integer-dialect.md is the specification.
"""

from __future__ import annotations

DOMAIN = "aqd.integer"
DOMAIN_VERSION = 1
OPSET = 21
IR_VERSION = 10

C_BITS = 31
"""A multiplier is a sign and at most this many bits."""

MAX_SHIFT = 62
"""Largest shift d."""

PRODUCT_LIMIT = 1 << 62
"""|x·c + B| stays below this over the proven range of x."""

INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1


def canonical_domain(name: str) -> str:
    """ONNX's own operators have two names for their domain; the empty one is meant here."""
    return "" if name == "ai.onnx" else name
