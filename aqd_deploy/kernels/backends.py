"""The kinds of devices that kernels are written for, by the name that a target's `backend` has.

Kernels need TVM, so a backend's are imported when it is made: whether there is one costs nothing to ask.
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


def _cpu(isa: Isa, core: Core) -> Backend:
    from aqd_deploy.kernels.cpu.backend import CpuBackend

    return CpuBackend(isa, core)


BACKENDS: dict[str, Callable[[Isa, Core], Backend]] = {"cpu": _cpu}


def check_backend(name: str) -> None:
    """Raise TargetError where no backend is called `name`."""
    if name not in BACKENDS:
        raise TargetError("unknown backend", received=repr(name), valid=", ".join(BACKENDS))


def backend_named(name: str, isa: Isa, core: Core) -> Backend:
    """The backend `name` for an instruction set and cores like `core`. Raises TargetError where there is none
    of this name, or it has no kernels for `isa`.
    """
    check_backend(name)
    return BACKENDS[name](isa, core)


def backend_of(device: Target) -> Backend:
    """The backend for `device`. Raises TargetError as `backend_named`."""
    return backend_named(device.backend, isa_named(device.kernels), Core.of(device))
