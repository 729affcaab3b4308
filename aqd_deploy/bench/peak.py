"""The dot-product peak of this machine, measured beside the contenders. Compiles, so it imports TVM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from aqd_deploy.kernels.contract.kernel import Peak

# A run takes one or two milliseconds on a fast CPU, twenty on a slow one.
_STEPS = 400_000


@dataclass(frozen=True)
class Probe:
    """`run` does `macs` multiply-accumulates with the instruction `name`, on all its threads together."""

    name: str
    macs: int
    run: Callable[[], object]


def probes(kernels: str, threads: int) -> list[Probe]:
    """A probe for each dot product of an instruction set (a value of `targets.isa.Isa`). Raises TargetError
    for an unknown one.
    """
    import tvm

    from aqd_deploy import targets
    from aqd_deploy.compiler.lower import codegen_target
    from aqd_deploy.kernels.backends import backend_named
    from aqd_deploy.kernels.contract.caches import Core
    from aqd_deploy.targets.isa import isa_named

    host = targets.get("host")
    peaks = backend_named(host.backend, isa_named(kernels), Core.of(host)).peaks(threads, _STEPS)
    functions = {peak.name: peak.prim_func.with_attr("global_symbol", peak.name) for peak in peaks}
    compiled = tvm.compile(tvm.IRModule(functions), codegen_target(host))
    return [Probe(peak.name, peak.macs, _runner(compiled[peak.name], peak, threads)) for peak in peaks]


def _runner(function: Any, peak: Peak, threads: int) -> Callable[[], object]:
    import tvm

    from aqd_deploy.runtime import lanes

    weights = tvm.runtime.tensor(np.ones(peak.weight_bytes, np.int8))
    out = tvm.runtime.tensor(np.zeros(peak.outputs, np.int32))

    return lambda: lanes.call(threads, function, weights, out)
