"""What the kernels must know of a card beside its instructions, by its architecture.

Source: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability" (shared memory of a
block); multiprocessors and bandwidth are those of one usual card, named beside them: they choose tiles, no
more.
"""

from __future__ import annotations

from dataclasses import dataclass

from aqd_deploy.errors import TargetError


@dataclass(frozen=True)
class Card:
    """`shared`: bytes of shared memory of a block; `bandwidth` of memory in bytes a microsecond;
    `warpgroups`: whether it has products of warpgroups (wgmma); `halves`: whether those of 4 bits are
    instructions of its own, at twice the rate.
    """

    multiprocessors: int
    shared: int
    bandwidth: float
    warpgroups: bool = False
    halves: bool = False


_KIB = 1024
CARDS = {
    "sm_80": Card(108, 163 * _KIB, 1.4e6, halves=True),  # A100 40 GB
    "sm_86": Card(84, 99 * _KIB, 0.65e6, halves=True),  # A40
    "sm_87": Card(8, 163 * _KIB, 0.06e6, halves=True),  # Jetson Orin Nano
    "sm_89": Card(58, 99 * _KIB, 0.27e6, halves=True),  # L4
    "sm_90": Card(132, 227 * _KIB, 2.9e6),  # H100
    "sm_90a": Card(132, 227 * _KIB, 2.9e6, warpgroups=True),  # H100
}


def card_named(name: str) -> Card:
    """The entry of an architecture. Raises TargetError where it has none."""
    if name not in CARDS:
        raise TargetError("there are no kernels for this card", received=repr(name), valid=", ".join(CARDS))
    return CARDS[name]
