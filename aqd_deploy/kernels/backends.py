"""The kinds of devices that kernels are written for, by the name that a target's `backend` has.

A backend makes TIR functions, which TVM compiles, or launches of CUDA functions. Kernels are imported when a
backend is made: whether there is one costs nothing to ask.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from aqd_deploy.errors import TargetError
from aqd_deploy.kernels.contract.caches import Core
from aqd_deploy.targets import Target
from aqd_deploy.targets.isa import Isa, isa_named

if TYPE_CHECKING:
    from aqd_deploy.kernels.contract.backend import Backend
    from aqd_deploy.kernels.contract.launches import CardBackend


def _cpu(isa: Isa, core: Core) -> Backend:
    from aqd_deploy.kernels.cpu.backend import CpuBackend

    return CpuBackend(isa, core)


def _cuda(card: str) -> CardBackend:
    from aqd_deploy.kernels.cuda.backend import CudaBackend

    return CudaBackend(card)


BACKENDS: dict[str, Callable[[Isa, Core], Backend]] = {"cpu": _cpu}
CARD_BACKENDS: dict[str, Callable[[str], CardBackend]] = {"cuda": _cuda}


def check_backend(name: str) -> None:
    """Raise TargetError where no backend is called `name`."""
    if name not in BACKENDS and name not in CARD_BACKENDS:
        raise TargetError(
            "unknown backend", received=repr(name), valid=", ".join((*BACKENDS, *CARD_BACKENDS))
        )


def is_card(name: str) -> bool:
    """Whether the backend `name` makes launches. Raises TargetError where there is none of this name."""
    check_backend(name)
    return name in CARD_BACKENDS


def check_cpu(name: str) -> None:
    """Raise TargetError where no backend is called `name`, or it makes no TIR, which is asked for."""
    if is_card(name):
        raise TargetError(
            "the kernels of a card are not TIR, which this asks for",
            received=f"the backend {name!r}",
            valid=f"a profile of a CPU, with the backend {' or '.join(BACKENDS)}",
            next_command="aqd-deploy targets list",
        )


def backend_named(name: str, isa: Isa, core: Core) -> Backend:
    """The backend `name` for an instruction set and cores like `core`. Raises TargetError as `check_cpu`, and
    where it has no kernels for `isa`.
    """
    check_cpu(name)
    return BACKENDS[name](isa, core)


def backend_of(device: Target) -> Backend:
    """The backend for `device`, a CPU. Raises TargetError as `backend_named`."""
    check_cpu(device.backend)
    return backend_named(device.backend, isa_named(device.kernels), Core.of(device))


def card_backend_of(device: Target) -> CardBackend:
    """The backend for `device`, a card. Raises TargetError where it is none, or the profile names no card."""
    if not is_card(device.backend) or not device.card:
        raise TargetError(
            f"{device.name} is no card",
            received=f"the backend {device.backend!r} and the card {device.card!r}",
            valid=f'the backend {" or ".join(CARD_BACKENDS)} and a key card, for example "sm_87"',
        )
    return CARD_BACKENDS[device.backend](device.card)
