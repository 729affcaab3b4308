"""The family `winograd`: the forms that are exact for the weights, with the dot products that multiply their
transformed operands.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from aqd_deploy.kernels.contract.caches import Core
from aqd_deploy.kernels.contract.choice import Choice
from aqd_deploy.kernels.contract.kernel import Layout
from aqd_deploy.kernels.contract.spec import ConvSpec, Epilogue
from aqd_deploy.kernels.cpu.conv.family import Family
from aqd_deploy.kernels.cpu.isa.dot_product import DotProduct
from aqd_deploy.kernels.cpu.isa.select import instruction_set
from aqd_deploy.kernels.cpu.winograd.conv import conv_winograd
from aqd_deploy.kernels.cpu.winograd.function import winograd_layout
from aqd_deploy.kernels.cpu.winograd.inputs import CHANNELS
from aqd_deploy.kernels.cpu.winograd.plan import WinogradPlan, tile_count, winograd_plans
from aqd_deploy.kernels.winograd.forms import FORMS, Form, may_winograd
from aqd_deploy.targets.isa import Isa


def winograd_forms(spec: ConvSpec, isa: Isa) -> dict[str, DotProduct]:
    """The forms that `spec` can be computed with, each with its dot product; they need whole vectors of input
    channels.
    """
    entry = instruction_set(isa)
    if not may_winograd(spec) or spec.in_channels % CHANNELS:
        return {}
    candidates = (
        (form, entry.winograd_words if FORMS[form].wide else entry.winograd_bytes) for form in spec.winograd
    )
    return {form: dots for form, dots in candidates if dots is not None}


def _plan(choice: Choice) -> WinogradPlan:
    return WinogradPlan.from_parameters(dict(choice.parameters))


def _form(choice: Choice) -> Form:
    return FORMS[_plan(choice).form]


class Winograd(Family):
    """Exact minimal filtering, 3x3 with stride 1."""

    name = "winograd"

    def applies(self, spec: ConvSpec, isa: Isa) -> str:
        return ", ".join(f"{form} is exact" for form in winograd_forms(spec, isa))

    def choices(self, spec: ConvSpec, isa: Isa, threads: int, core: Core) -> list[tuple[float, Choice]]:
        forms = {form: replace(dots, core=core) for form, dots in winograd_forms(spec, isa).items()}
        plans = winograd_plans(spec, forms, threads)
        return [(cycles, Choice.of(self.name, **plan.parameters())) for cycles, plan in plans]

    def build(
        self, spec: ConvSpec, epilogue: Epilogue, isa: Isa, threads: int, choice: Choice, core: Core
    ) -> tuple[Any, Layout]:
        plan, dots = _plan(choice), self.product(spec, isa, choice)
        return conv_winograd(spec, epilogue, dots, threads, plan), winograd_layout(spec, dots, plan)

    def why(self, spec: ConvSpec, isa: Isa, choice: Choice) -> str:
        form, bits = _form(choice), 8 * self.product(spec, isa, choice).weight_bytes
        saving = f"{form.saving:.3g} times fewer products"
        return f"{form.name}, exact in {bits} bits for these ranges: {saving}"

    def product(self, spec: ConvSpec, isa: Isa, choice: Choice) -> DotProduct:
        return winograd_forms(spec, isa)[_plan(choice).form]

    def writes_once(self, spec: ConvSpec, isa: Isa, choice: Choice) -> bool:
        form = _form(choice)
        return all(m.out_height % form.rows == 0 and m.out_width % form.columns == 0 for m in spec.maps)

    def stores_borders(self, spec: ConvSpec, isa: Isa, choice: Choice) -> bool:
        """Tiles are transposed in squares of lanes."""
        form = _form(choice)
        return form.rows * form.columns % self.product(spec, isa, choice).lanes == 0

    def executed_macs(self, spec: ConvSpec, choice: Choice) -> int:
        """Of whole tiles, also where a map ends inside one."""
        form = _form(choice)
        inputs = spec.in_channels // spec.group * spec.out_channels
        return tile_count(spec, form) * form.positions * inputs


FAMILY = Winograd()
