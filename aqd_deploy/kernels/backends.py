"""The kinds of devices that kernels are written for, by the name that a target's `backend` has."""

from __future__ import annotations

from collections.abc import Callable

from aqd_deploy.errors import TargetError
from aqd_deploy.kernels.contract.backend import Backend
from aqd_deploy.kernels.contract.caches import Core
from aqd_deploy.kernels.cpu.backend import CpuBackend
from aqd_deploy.targets import Target
from aqd_deploy.targets.isa import Isa, isa_named

BACKENDS: dict[str, Callable[[Isa, Core], Backend]] = {"cpu": CpuBackend}


def backend_named(name: str, isa: Isa, core: Core) -> Backend:
    """The backend `name` for an instruction set and cores like `core`. Raises TargetError where there is none
    of this name, or it has no kernels for `isa`.
    """
    if name not in BACKENDS:
        raise TargetError("unknown backend", received=repr(name), valid=", ".join(BACKENDS))
    return BACKENDS[name](isa, core)


def backend_of(device: Target) -> Backend:
    """The backend for `device`. Raises TargetError as `backend_named`."""
    return backend_named(device.backend, isa_named(device.kernels), Core.of(device))
