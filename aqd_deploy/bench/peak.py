"""The dot-product peak of this machine, measured beside the contenders. Compiles, so it imports TVM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from aqd_deploy.kernels.cpu.isa.dot_product import DotProduct

# A run takes one or two milliseconds on a fast CPU, twenty on a slow one.
_STEPS = 400_000


@dataclass(frozen=True)
class Probe:
    """`run` does `macs` multiply-accumulates with the dot product `name`, on all its threads together."""

    name: str
    macs: int
    run: Callable[[], object]


def probes(kernels: str, threads: int) -> list[Probe]:
    """A probe for each dot product of an instruction set (a value of `kernels.isa.Isa`)."""
    import tvm

    from aqd_deploy import targets
    from aqd_deploy.compiler.lower import codegen_target
    from aqd_deploy.kernels.cpu.isa.peak import peak_func, peak_macs
    from aqd_deploy.kernels.cpu.isa.select import instruction_set
    from aqd_deploy.targets.isa import isa_named

    available = instruction_set(isa_named(kernels)).peaks
    functions = {
        dots.name: peak_func(dots, threads, _STEPS).with_attr("global_symbol", dots.name)
        for dots in available
    }
    compiled = tvm.compile(tvm.IRModule(functions), codegen_target(targets.get("host")))
    return [
        Probe(
            dots.name,
            threads * peak_macs(dots, _STEPS),
            _runner(compiled[dots.name], dots, threads),
        )
        for dots in available
    ]


def _runner(function: Any, dots: DotProduct, threads: int) -> Callable[[], object]:
    import tvm

    from aqd_deploy.kernels.cpu.isa.peak import peak_outputs
    from aqd_deploy.runtime import lanes

    weights = tvm.runtime.tensor(np.ones(dots.vector_bytes, np.int8))
    out = tvm.runtime.tensor(np.zeros(peak_outputs(dots, threads), np.int32))

    return lambda: lanes.call(threads, function, weights, out)
