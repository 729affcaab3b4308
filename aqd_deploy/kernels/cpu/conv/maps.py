"""The frame of kernels that compute one map after the other, each in parallel tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from aqd_deploy.kernels.contract.spec import ConvSpec, Epilogue, Map
from aqd_deploy.kernels.cpu.emit import Buffer, Emitter, Expr, const
from aqd_deploy.kernels.cpu.epilogue.epilogue import BoundEpilogue, bind_epilogue
from aqd_deploy.kernels.storage.layout import WeightLayout
from aqd_deploy.targets.isa import Isa


class MapCode(Protocol):
    """Writes the code of one map: `tasks` of them, each by `emit` from the input; `level` is the index of the
    map in a stack.
    """

    tasks: int

    def emit(self, task: Expr, data: Buffer, level: Expr | None) -> None: ...


def conv_maps(
    spec: ConvSpec,
    epilogue: Epilogue,
    isa: Isa,
    layout: WeightLayout,
    threads: int,
    code_of: Callable[[Emitter, Map, Buffer, BoundEpilogue], MapCode],
) -> Any:
    """The PrimFunc; parameters as in `spec.Epilogue`. `code_of` takes a map, the weights and the epilogue."""
    em = Emitter()
    data = em.parameter(
        "data", (spec.height, spec.width, spec.in_channels), "int8" if spec.input_signed else "uint8"
    )
    weights = em.parameter("weights", layout.shape, "int8")
    bound = bind_epilogue(
        em, epilogue, isa, spec.out_height, spec.out_width, spec.out_channels, max(1, len(spec.levels))
    )
    for level, m in enumerate(spec.maps):
        code = code_of(em, m, weights, bound)
        with em.loop("task", code.tasks, "parallel" if threads > 1 else "serial") as task:
            code.emit(task, data, const(level) if spec.levels else None)
    return em.finish()
