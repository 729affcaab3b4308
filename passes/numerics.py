"""The three numerics modes of lowering."""

from __future__ import annotations

from aqd_deploy.errors import UnsupportedModelError

EXACT = "exact"
PAPER = "paper"
POWER_OF_TWO = "power-of-two"
MODES = (EXACT, PAPER, POWER_OF_TWO)


def check_mode(mode: str) -> str:
    """The mode itself; UnsupportedModelError for another name than the three."""
    if mode not in MODES:
        raise UnsupportedModelError("unknown numerics mode", received=mode, valid=", ".join(MODES))
    return mode
