"""How a reduction is cut where its sums fit 16 bits for a proven number of steps only (`dots.exact_steps`).

A run is one segment of a kernel row, `layout.steps` steps long. Sums start at zero in each chunk of the
reduction and are added to 32-bit ones at its end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from aqd_deploy.kernels.cpu.emit import Emitter, Expr, const
from aqd_deploy.kernels.cpu.isa.dot_product import DotProduct
from aqd_deploy.kernels.storage.layout import WeightLayout

# (kernel row, segment, first step, number of steps) of a run, or of the part of it that lies in a chunk.
Run = tuple[Expr, Expr, Expr, Any]


@dataclass(frozen=True)
class Chunks:
    """Either a chunk is `runs` whole runs (parts = 1), or each run is cut into `parts` chunks of `steps`
    steps; the last chunk may be shorter. `count` chunks in all.
    """

    runs: int
    parts: int
    steps: int
    count: int


def chunks(layout: WeightLayout, dots: DotProduct) -> Chunks:
    """The fewest chunks of about equal size; one where `dots` has no partial sums."""
    runs, steps = layout.kernel[0] * layout.segments, layout.steps
    if not dots.partial_steps:
        return Chunks(runs, 1, steps, 1)
    if steps > dots.partial_steps:
        size = -(-steps // -(-steps // dots.partial_steps))
        parts = -(-steps // size)
        return Chunks(1, parts, size, runs * parts)
    count = -(-runs // (dots.partial_steps // steps))
    together = -(-runs // count)
    return Chunks(together, 1, steps, -(-runs // together))


@contextmanager
def chunk_loops(
    em: Emitter, layout: WeightLayout, dots: DotProduct
) -> Iterator[Callable[[], AbstractContextManager[Run]]]:
    """The loop over the chunks; yields what makes the loop over the runs of one chunk."""
    cut = chunks(layout, dots)
    runs = layout.kernel[0] * layout.segments
    with em.loop("chunk_run", -(-runs // cut.runs)) as outer, em.loop("chunk", cut.parts) as part:

        @contextmanager
        def inner() -> Iterator[Run]:
            count: Any = cut.runs
            if runs % cut.runs:
                count = tirx.Min(const(cut.runs), runs - outer * cut.runs)
            steps: Any = cut.steps
            if layout.steps % cut.steps:
                steps = em.bind("steps", tirx.Min(const(cut.steps), layout.steps - part * cut.steps))
            with em.loop("run", count) as offset:
                run = em.bind("run", outer * cut.runs + offset)
                yield run // layout.segments, run % layout.segments, part * cut.steps, steps

        yield inner
