"""A Winograd function under construction: its parameters, and what the parts of its code share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from aqd_deploy.kernels.contract.spec import ConvSpec, Epilogue
from aqd_deploy.kernels.cpu.emit import Emitter, Wrapping
from aqd_deploy.kernels.cpu.epilogue.epilogue import bind_epilogue
from aqd_deploy.kernels.cpu.epilogue.nchw_store import declare_borders, stores_borders
from aqd_deploy.kernels.cpu.isa.dot_product import DotProduct
from aqd_deploy.kernels.cpu.winograd.plan import WinogradPlan
from aqd_deploy.kernels.cpu.winograd.tiles import TileList
from aqd_deploy.kernels.winograd.forms import FORMS, SHIFT, padded_range
from aqd_deploy.kernels.winograd.layout import WinogradLayout


def winograd_layout(spec: ConvSpec, dots: DotProduct, plan: WinogradPlan) -> WinogradLayout:
    """The layout of the plan's transformed weights. `spec.input_range` is known."""
    assert spec.input_range is not None
    shifts = FORMS[plan.form].shifts(*padded_range(spec.input_range))
    if dots.signed_bytes:
        shifts = shifts - SHIFT
    return WinogradLayout(
        plan.form,
        spec.out_channels,
        spec.in_channels,
        dots.lanes,
        dots.dot,
        plan.blocks,
        tuple(int(shift) for shift in shifts),
        spec.odd,
    )


class WinogradFunction:
    """`tiles` are the output's; a tile has samples of `high` rows and `wide` columns, of the type `dtype`,
    and `outputs` outputs.
    """

    def __init__(self, spec: ConvSpec, epilogue: Epilogue, dots: DotProduct, plan: WinogradPlan) -> None:
        self.spec, self.dots, self.plan = spec, dots, plan
        self.form = FORMS[plan.form]
        self.layout = winograd_layout(spec, dots, plan)
        self.high, self.wide = self.form.vertical.size, self.form.horizontal.size
        self.outputs = self.form.rows * self.form.columns
        # Bytes are unsigned until they are multiplied: sums of theirs may wrap.
        self.dtype = "int16" if self.form.wide else "uint8"
        self.tiles = TileList(spec, self.form)
        self.em = Emitter()
        self.data = self.em.parameter(
            "data",
            (spec.height, spec.width, spec.in_channels),
            "int8" if spec.input_signed else "uint8",
        )
        self.weights = self.em.parameter("weights", self.layout.shape, "int8")
        to_borders = stores_borders(epilogue)
        self.bound = bind_epilogue(
            self.em,
            replace(epilogue, stores=()) if to_borders else epilogue,
            dots.isa,
            spec.out_height,
            spec.out_width,
            spec.out_channels,
            max(1, len(spec.levels)),
        )
        self.borders = declare_borders(self.em, spec) if to_borders else []

    def named(self, values: list[Any]) -> list[Any]:
        """`values`, each computed once."""
        return [
            Wrapping(self.em.bind("e", value.value), value.lanes)
            if isinstance(value, Wrapping)
            else self.em.bind("e", value)
            for value in values
        ]
