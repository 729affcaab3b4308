"""A convolution on tiles with a max-pool in its epilogue; `conv.pooled` keeps and pools the rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tvm import tirx

from aqd_deploy.kernels.contract.caches import Core
from aqd_deploy.kernels.contract.spec import ConvSpec, Epilogue
from aqd_deploy.kernels.cpu.amx.conv import TileConv
from aqd_deploy.kernels.cpu.amx.plan import Plan
from aqd_deploy.kernels.cpu.conv.pooled import (
    KeptRows,
    around_pool,
    first_kept_row,
    kept_rows,
    most_kept_bytes,
    pool_of,
    rows_per_task,
    tasks_of,
)
from aqd_deploy.kernels.cpu.emit import Emitter, Expr, const
from aqd_deploy.kernels.cpu.epilogue.epilogue import Place, bind_epilogue
from aqd_deploy.targets.isa import Isa


def conv_amx_pooled(
    spec: ConvSpec, epilogue: Epilogue, isa: Isa, threads: int, plan: Plan, core: Core
) -> Any:
    """PrimFunc of a convolution in one group; parameters as in `spec.Epilogue`, outputs pooled. Parts follow
    from the pool. Raises ShapeError as `pool_of`.
    """
    pool = pool_of(spec, epilogue)
    height, width = pool.size(spec.out_height, spec.out_width)
    rows = rows_per_task(spec, pool, threads, most_kept_bytes(core))
    kept = kept_rows(spec, pool, rows)
    plan = replace(plan, pixel_parts=1, channel_parts=1)
    before, after = around_pool(epilogue)
    conv = TileConv(rows_alone(spec, kept), spec, before, isa, plan)
    em, bound = conv.em, conv.finish.bound
    pooled = bind_epilogue(em, after, isa, height, width, spec.out_channels)
    conv.unit.ask()
    with em.loop("task", tasks_of(height, rows), "parallel" if threads > 1 else "serial") as task:
        first = em.bind("first", tirx.Min(task * rows, const(height - rows)))
        top = em.bind("kept_top", first_kept_row(spec, pool, first, kept))
        buffer = em.alloc("kept", "int32", kept * spec.out_width * spec.out_channels)
        strip = _KeptTiles(bound, buffer, top)
        conv.finish.bound = strip
        conv.task(const(0), em.bind("input_top", top * spec.strides[0] - spec.pads[0]))
        strip.pool_rows(em, pooled, pool, first, rows)
    return em.finish()


def rows_alone(spec: ConvSpec, rows: int) -> ConvSpec:
    """`spec` as the convolution of the samples that `rows` rows of its output need."""
    height = (rows - 1) * spec.strides[0] + (spec.kernel[0] - 1) * spec.dilations[0] + 1
    return replace(spec, height=height, pads=(0, spec.pads[1], 0, spec.pads[3]))


class _KeptTiles(KeptRows):
    """Places are those of the kept rows."""

    def emit(self, em: Emitter, value: Expr, place: Place, channel: Expr, lanes: int) -> None:
        whole = Place(place.pixel + self.top * self.width, place.y + self.top, place.x)
        value = self.after_stages(em, value, whole, channel, lanes)
        em.store(self.buffer, place.pixel * self.channels + channel, value, lanes)
