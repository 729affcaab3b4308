"""The direct convolution with a max-pool in its epilogue: what is pooled never leaves the second-level cache.

Each task keeps the rows of the convolution that its rows of the pooled map need, and computes those at its
border once more than the convolution alone would.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tvm import tirx

from aqd_deploy.errors import ShapeError
from aqd_deploy.kernels.contract.caches import Core
from aqd_deploy.kernels.contract.spec import (
    AddBias,
    Bound,
    ConvSpec,
    Epilogue,
    Lookup,
    Multiply,
    MultiplyShift,
    Pieces,
    Pool,
    Relu,
    Requantize,
    RequantizeMax,
    SkipAdd,
    Stage,
    Steps,
    StreamMultiply,
    Threshold,
)
from aqd_deploy.kernels.cpu.conv.blocked import ConvFunction, MapConv, blocked_layout, emit_tiles
from aqd_deploy.kernels.cpu.conv.blocking import Blocking
from aqd_deploy.kernels.cpu.conv.padded_rows import needs_copy
from aqd_deploy.kernels.cpu.emit import Buffer, Emitter, Expr, const, load
from aqd_deploy.kernels.cpu.epilogue.epilogue import BoundEpilogue, Place, bind_epilogue
from aqd_deploy.kernels.cpu.isa.dot_product import DotProduct
from aqd_deploy.kernels.cpu.movement.pointwise import for_channels

LANES = 16
# How many pixels before they are stored streams are asked for.
AHEAD = 4


def conv_pooled(
    spec: ConvSpec, epilogue: Epilogue, dots: DotProduct, threads: int, blocking: Blocking
) -> Any:
    """PrimFunc of a convolution that `can_block`; parameters as in `spec.Epilogue`, outputs pooled.

    Register tiles are those of `blocking`; rows follow from the pool. Raises ShapeError where a window would
    lie in the padding alone, or for stacked levels.
    """
    pool = pool_of(spec, epilogue)
    before, after = around_pool(epilogue)
    function = ConvFunction(spec, before, dots, blocked_layout(spec, dots))
    em, bound = function.em, function.bound
    height, width = pool.size(spec.out_height, spec.out_width)
    pooled = bind_epilogue(em, after, dots.isa, height, width, spec.out_channels)
    rows = rows_per_task(spec, pool, threads, most_kept_bytes(dots.core))
    kept = kept_rows(spec, pool, rows)
    tile = (min(blocking.tile[0], kept), blocking.tile[1])
    plan = replace(blocking, rows=kept, strips=1, parts=1, tile=tile)
    copies = needs_copy(spec, function.layout, dots)
    with em.loop("task", tasks_of(height, rows), "parallel" if threads > 1 else "serial") as task:
        first = em.bind("first", tirx.Min(task * rows, const(height - rows)))
        top = em.bind("kept_top", first_kept_row(spec, pool, first, kept))
        buffer = em.alloc("kept", "int32", kept * spec.out_width * spec.out_channels)
        strip = KeptRows(bound, buffer, top)
        function.bound = strip
        emit_tiles(function, [MapConv(function, 0, plan, copies, top)], const(0))
        strip.pool_rows(em, pooled, pool, first, rows)
    return em.finish()


def pool_of(spec: ConvSpec, epilogue: Epilogue) -> Pool:
    """The pool. Raises ShapeError where a window would lie in the padding alone, or for stacked levels."""
    pool = epilogue.pool
    if pool is None or spec.levels or any(p >= pool.kernel[i % 2] for i, p in enumerate(pool.pads)):
        raise ShapeError(
            "this pool cannot follow a convolution", received=pool, valid="pads below the kernel"
        )
    return pool


def around_pool(epilogue: Epilogue) -> tuple[Epilogue, Epilogue]:
    """What comes before the pool and what after. The maximum commutes with steps that keep order, and there
    are fewer values after it.
    """
    stages = epilogue.stages
    count = max((i + 1 for i, stage in enumerate(stages) if not _keeps_order(stage)), default=0)
    return (
        Epilogue(stages[:count], ()),
        Epilogue(stages[count:], epilogue.stores),
    )


def _keeps_order(stage: Stage) -> bool:
    """Whether a larger value never becomes a smaller one, whatever the constants."""
    match stage:
        case AddBias() | Relu() | Bound():
            return True
        case MultiplyShift(scaling):
            # The other forms multiply, and a factor may be negative.
            return scaling.form == "shift"
        case SkipAdd() | Multiply() | StreamMultiply():
            return False
        case Requantize() | RequantizeMax() | Threshold() | Lookup() | Steps() | Pieces():
            return False


def first_kept_row(spec: ConvSpec, pool: Pool, first: Expr, kept: int) -> Expr:
    """Where the `kept` rows begin that pooled rows from `first` on need."""
    top = tirx.Min(first * pool.strides[0] - pool.pads[0], const(spec.out_height - kept))
    return tirx.Max(top, const(0))


def most_kept_bytes(core: Core) -> int:
    """What the kept rows may take of the second-level cache."""
    return core.l2 * 11 // 16


def rows_per_task(spec: ConvSpec, pool: Pool, threads: int, kept_bytes: int) -> int:
    """Rows of the pooled map a task: the least work for the busiest thread whose kept rows fit."""
    height = pool.size(spec.out_height, spec.out_width)[0]
    row_bytes = spec.out_width * spec.out_channels * 4
    fitting = [r for r in range(1, height + 1) if kept_rows(spec, pool, r) * row_bytes <= kept_bytes] or [1]
    return min(fitting, key=lambda r: -(-tasks_of(height, r) // threads) * kept_rows(spec, pool, r))


def tasks_of(height: int, rows: int) -> int:
    return -(-height // rows)


def kept_rows(spec: ConvSpec, pool: Pool, rows: int) -> int:
    """Rows of the convolution under `rows` rows of the pooled map."""
    return min((rows - 1) * pool.strides[0] + pool.kernel[0], spec.out_height)


class KeptRows(BoundEpilogue):
    """Stands for the epilogue of the convolution: its steps, and a store into the kept rows."""

    def __init__(self, bound: BoundEpilogue, buffer: Buffer, top: Expr) -> None:
        size = bound.height, bound.width, bound.channels
        super().__init__(bound.epilogue, bound.isa, *size, stage_params=bound.stage_params)
        self.buffer, self.top = buffer, top

    def emit(self, em: Emitter, value: Expr, place: Place, channel: Expr, lanes: int) -> None:
        """As of `BoundEpilogue`."""
        value = self.after_stages(em, value, place, channel, lanes)
        em.store(self.buffer, self._index(place.y, place.x, channel), value, lanes)

    def highest(self, pool: Pool, place: Place, channel: Expr, lanes: int) -> Expr:
        """The maximum of the window of the pooled map's `place`."""
        best = None
        for ky in range(pool.kernel[0]):
            for kx in range(pool.kernel[1]):
                # A coordinate outside repeats the nearest inside one, which is in the window as well.
                y = inside(place.y * pool.strides[0] + (ky - pool.pads[0]), self.height)
                x = inside(place.x * pool.strides[1] + (kx - pool.pads[1]), self.width)
                value = load(self.buffer, self._index(y, x, channel), lanes)
                best = value if best is None else tirx.Max(best, value)
        return best

    def pool_rows(self, em: Emitter, pooled: BoundEpilogue, pool: Pool, first: Expr, rows: int) -> None:
        """Rows of the pooled map from `first` on, through what follows the pool."""
        with em.loop("py", rows) as y, em.loop("px", pooled.width) as x:
            place = pooled.at(first + y, x)

            def body(c: Expr, lanes: int) -> None:
                pooled.prefetch(em, replace(place, pixel=place.pixel + AHEAD), c, level=1)
                value = em.bind("v", self.highest(pool, place, c, lanes))
                pooled.emit(em, value, place, c, lanes)

            for_channels(em, self.channels, LANES, body)

    def _index(self, y: Expr, x: Expr, channel: Expr) -> Expr:
        return ((y - self.top) * self.width + x) * self.channels + channel


def inside(index: Expr, extent: int) -> Expr:
    """`index`, or what is nearest to it from 0 to extent − 1."""
    return tirx.Max(tirx.Min(index, const(extent - 1)), const(0))
