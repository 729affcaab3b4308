"""What this machine can reach, measured beside the contenders: its dot products, and the bandwidth of its
caches and memory. Compiles, so it imports TVM.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from aqd_deploy.kernels.contract.backend import Backend

# A run takes one or two milliseconds on a fast CPU, twenty on a slow one.
_STEPS = 400_000


@dataclass(frozen=True)
class Probe:
    """`run` does `work` on all its threads together: multiply-accumulates with the instruction `name`, or
    bytes that it reads of the level of memory `name`.
    """

    name: str
    work: int
    run: Callable[[], object]


def dot_products(kernels: str, threads: int) -> list[Probe]:
    """A probe for each dot product of an instruction set (a value of `targets.isa.Isa`). Raises TargetError
    for an unknown one.
    """
    peaks = _backend(kernels).peaks(threads, _STEPS)
    compiled = _compiled({peak.name: peak.prim_func for peak in peaks})
    return [
        Probe(
            peak.name,
            peak.macs,
            _call(compiled[peak.name], threads, np.ones(peak.weight_bytes, np.int8), peak.outputs),
        )
        for peak in peaks
    ]


def reads(kernels: str, threads: int) -> list[Probe]:
    """A probe for each level of memory that is worth a look. Raises TargetError as `dot_products` does."""
    levels = _backend(kernels).reads(threads)
    compiled = _compiled({f"level{index}": level.prim_func for index, level in enumerate(levels)})
    return [
        Probe(
            level.name,
            level.bytes,
            _call(compiled[f"level{index}"], threads, np.ones(level.values, np.int32), level.outputs),
        )
        for index, level in enumerate(levels)
    ]


def _backend(kernels: str) -> Backend:
    from aqd_deploy import targets
    from aqd_deploy.kernels.backends import backend_named
    from aqd_deploy.kernels.contract.caches import Core
    from aqd_deploy.targets.isa import isa_named

    host = targets.get("host")
    return backend_named(host.backend, isa_named(kernels), Core.of(host))


def _compiled(functions: dict[str, Any]) -> Any:
    import tvm

    from aqd_deploy import targets
    from aqd_deploy.compiler.lower import codegen_target

    named = {name: func.with_attr("global_symbol", name) for name, func in functions.items()}
    return tvm.compile(tvm.IRModule(named), codegen_target(targets.get("host")))


def _call(function: Any, threads: int, data: np.ndarray, outputs: int) -> Callable[[], object]:
    import tvm

    from aqd_deploy.runtime import lanes

    read = tvm.runtime.tensor(data)
    out = tvm.runtime.tensor(np.zeros(outputs, np.int32))

    return lambda: lanes.call(threads, function, read, out)
