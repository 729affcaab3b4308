"""The family of convolutions on tiles."""

from __future__ import annotations

from typing import Any

from aqd_deploy.kernels.contract.caches import Core
from aqd_deploy.kernels.contract.choice import Choice
from aqd_deploy.kernels.contract.kernel import Layout
from aqd_deploy.kernels.contract.spec import ConvSpec, Epilogue
from aqd_deploy.kernels.cpu.amx.conv import amx_layout, conv_amx, weight_codes
from aqd_deploy.kernels.cpu.amx.frame import Frame
from aqd_deploy.kernels.cpu.amx.plan import Plan, plans, weight_steps
from aqd_deploy.kernels.cpu.amx.pooled import conv_amx_pooled
from aqd_deploy.kernels.cpu.amx.tiles import ROW_BYTES, ROWS, SUMS
from aqd_deploy.kernels.cpu.conv.family import Family
from aqd_deploy.kernels.cpu.isa.select import instruction_set
from aqd_deploy.targets.isa import Isa


class Amx(Family):
    """Any convolution in one group, where there are tile registers."""

    name = "amx"
    pools = True

    def applies(self, spec: ConvSpec, isa: Isa) -> str:
        if spec.group != 1 or not instruction_set(isa).tile_registers:
            return ""
        return f"{'tdpbssd' if spec.input_signed else 'tdpbusd'}: tiles of pixels × output channels"

    def choices(self, spec: ConvSpec, isa: Isa, threads: int, core: Core) -> list[tuple[float, Choice]]:
        found = plans(spec, amx_layout(spec), weight_codes(spec), threads, core)
        return [(cycles, Choice.of(self.name, **plan.parameters())) for cycles, plan in found]

    def build(
        self, spec: ConvSpec, epilogue: Epilogue, isa: Isa, threads: int, choice: Choice, core: Core
    ) -> tuple[Any, Layout]:
        plan = Plan.from_parameters(dict(choice.parameters))
        if epilogue.pool is not None:
            return conv_amx_pooled(spec, epilogue, isa, threads, plan, core), amx_layout(spec, plan.codes)
        return conv_amx(spec, epilogue, isa, threads, plan), amx_layout(spec, plan.codes)

    def writes_once(self, spec: ConvSpec, isa: Isa, choice: Choice) -> bool:
        return True

    def stores_borders(self, spec: ConvSpec, isa: Isa, choice: Choice) -> bool:
        return True

    def splits_borders(self, spec: ConvSpec, isa: Isa, choice: Choice) -> bool:
        return True

    def executed_macs(self, spec: ConvSpec, choice: Choice) -> int:
        """Of whole tiles, also where a row, a map or the channels end inside one."""
        plan, layout = Plan.from_parameters(dict(choice.parameters)), amx_layout(spec)
        tiles = Frame.of(spec, ROWS * plan.high).tiles * plan.items(layout.blocks) * plan.sums
        return tiles * weight_steps(layout) * SUMS * ROW_BYTES


FAMILY = Amx()
