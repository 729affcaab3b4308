"""Exact Winograd convolution 3x3, stride 1, where the ranges prove it (`forms.exact_forms`).

A task transforms the inputs of a group of tiles into samples (`inputs`), multiplies position by position, and
transforms the products back into outputs for the epilogue (`outputs`).
"""

from __future__ import annotations

from typing import Any

from tvm import tirx

from aqd_deploy.kernels.contract.spec import ConvSpec, Epilogue
from aqd_deploy.kernels.cpu.emit import Buffer, Expr, const, load
from aqd_deploy.kernels.cpu.isa.dot_product import DotProduct
from aqd_deploy.kernels.cpu.winograd.function import WinogradFunction
from aqd_deploy.kernels.cpu.winograd.inputs import InputTransform
from aqd_deploy.kernels.cpu.winograd.outputs import OutputTransform
from aqd_deploy.kernels.cpu.winograd.plan import WinogradPlan

# Bytes of a cache line, and how many may be prefetched in a step: more would wait for each other.
LINE = 64
MAX_PREFETCHES = 2


def conv_winograd(
    spec: ConvSpec, epilogue: Epilogue, dots: DotProduct, threads: int, plan: WinogradPlan
) -> Any:
    """PrimFunc of a convolution in one of its exact forms; parameters as in `spec.Epilogue`."""
    return _WinogradConv(spec, epilogue, dots, plan).emit("parallel" if threads > 1 else "serial")


class _WinogradConv(WinogradFunction):
    """Writes one function; the methods go in the order of the work."""

    def emit(self, kind: str) -> Any:
        """The function; its loop over tasks is of `kind`."""
        em, plan, tiles = self.em, self.plan, self.tiles
        positions, items = self.form.positions, self.layout.items
        groups = -(-tiles.total // plan.group)
        share = -(-items // plan.parts)
        with em.loop("task", groups * plan.parts, kind) as task:
            part = em.bind("part", task % plan.parts)
            first = em.bind("first", task // plan.parts * plan.group)
            # The last group may be smaller; its sets are whole, and what they hold too much is not stored.
            even = tiles.total % plan.group == 0
            count, sets = const(plan.group), const(plan.group // plan.tiles)
            if not even:
                count = em.bind("count", tirx.Min(const(plan.group), tiles.total - first))
                sets = em.bind("sets", (count + (plan.tiles - 1)) // plan.tiles)
            tables = tiles.tables(em)
            samples = em.alloc("samples", self.dtype, positions * plan.group * self.spec.in_channels)
            sums = em.alloc("window_sums", "int32", plan.group * self.outputs) if self.form.halved else None
            inputs = InputTransform(self, samples, sums)
            with em.loop("t", count) as t:
                inputs.emit(tiles.at(em, first + t, tables), t)
            size = positions * plan.group * plan.blocks * self.dots.lanes
            products = em.alloc("products", "int32", size)
            outputs = OutputTransform(self, products, sums)
            of_part = share if plan.parts == 1 else tirx.Min(const(share), items - part * share)
            with em.loop("item", of_part) as offset:
                item = em.bind("item", part * share + offset)
                with em.loop("position", positions) as position, em.loop("set", sets) as s:
                    self._multiply(item * positions + position, position, s, samples, products)
                with em.loop("set", sets) as s, em.loop("j", plan.tiles) as j:
                    t = em.bind("t", s * plan.tiles + j)
                    with em.always() if even else em.when(t < count):
                        if self.bound.streams:
                            outputs.prefetch_streams(tiles.at(em, first + t + 1, tables), item * plan.blocks)
                        tile = tiles.at(em, first + t, tables)
                        at = em.bind("at", s * positions * plan.tiles + j)
                        outputs.emit(tile, t, at, item * plan.blocks)
        return em.finish()

    def _multiply(
        self, first: Expr, position: Expr, set_index: Expr, samples: Buffer, products: Buffer
    ) -> None:
        """`tiles` × `blocks` accumulators over all input channels; `first` is the position of an item.

        Products lie as [set, position, tile, block, lane]: what `OutputTransform` reads together is near.
        """
        em, plan, dots, layout = self.em, self.plan, self.dots, self.layout
        lanes, vector = dots.lanes, dots.vector_bytes
        row = em.bind("row", (set_index * self.form.positions + position) * plan.tiles)
        accs = [
            [em.alloc("acc", "int32", lanes, "local") for _ in range(plan.blocks)] for _ in range(plan.tiles)
        ]
        item = em.bind("first_item", first)
        for b in range(plan.blocks):
            at = layout.start_offset + (item * plan.blocks + b) * (lanes * 4)
            raw = load(self.weights, at, lanes * 4)
            start = em.bind("start", tirx.reinterpret(f"int32x{lanes}", raw))
            for acc in accs:
                em.store(acc[b], 0, start, lanes)
        weight_base = em.bind("weight_base", item * (layout.steps * plan.blocks * vector))
        sample_base = em.bind("sample_base", row * self.spec.in_channels)
        unrolled = 2 if layout.steps % 2 == 0 else 1
        if dots.sample_steps > 1:
            # Whole loads, since input channels come in `CHANNELS`.
            unrolled = dots.sample_steps
        rounds = layout.steps // unrolled
        item_bytes = layout.steps * plan.blocks * vector
        # The next position's weights come while this one's are used: all lines of them, over all sets.
        lines = -(-item_bytes // (LINE * rounds * (plan.group // plan.tiles)))
        with em.loop("k", rounds) as k_round:
            for i in range(lines if lines <= MAX_PREFETCHES * unrolled else 0):
                line = (set_index * rounds + k_round) * lines + i
                em.prefetch(self.weights, weight_base + item_bytes + line * LINE, level=2)
            words = []
            if dots.sample_steps > 1:
                for j in range(plan.tiles):
                    at = sample_base + (j * self.spec.in_channels + k_round * (unrolled * dots.dot))
                    words.append(em.bind("s", dots.words(samples, at, unrolled)))
            for offset in range(unrolled):
                k = k_round * unrolled + offset
                weights = [
                    em.bind("w", dots.weight(self.weights, weight_base + (k * plan.blocks + b) * vector))
                    for b in range(plan.blocks)
                ]
                for j, acc_row in enumerate(accs):
                    if words:
                        sample = dots.sample_of(words[j], offset)
                    else:
                        at = sample_base + (j * self.spec.in_channels + k * dots.dot)
                        sample = em.bind("s", dots.sample(samples, at))
                    for acc, weight in zip(acc_row, weights, strict=True):
                        em.store(acc, 0, dots.accumulate(load(acc, const(0), lanes), sample, weight), lanes)
        for j, acc_row in enumerate(accs):
            for b, acc in enumerate(acc_row):
                at = ((row + j) * plan.blocks + b) * lanes
                em.store(products, at, load(acc, const(0), lanes), lanes)
