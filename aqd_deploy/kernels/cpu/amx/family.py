"""The entry of the kernels on AMX: where they apply, in which choices, and the function of each."""

from __future__ import annotations

from typing import Any

from aqd_deploy.kernels.contract.caches import Core
from aqd_deploy.kernels.contract.choice import Choice
from aqd_deploy.kernels.contract.spec import ConvSpec, Epilogue
from aqd_deploy.kernels.cpu.amx.conv import amx_layout, conv_amx
from aqd_deploy.kernels.cpu.amx.plan import Plan, plans
from aqd_deploy.kernels.storage.layout import WeightLayout


def amx_applies(spec: ConvSpec) -> str:
    """Why tiles can be used, "" where they cannot."""
    if spec.group != 1:
        return ""
    return f"{'tdpbssd' if spec.input_signed else 'tdpbusd'}: tiles of pixels × output channels"


def amx_choices(spec: ConvSpec, threads: int, core: Core) -> list[tuple[float, Choice]]:
    """(estimated cycles, choice), the best first."""
    found = plans(spec, amx_layout(spec), threads, core)
    return [(cycles, Choice.of("amx", **plan.parameters())) for cycles, plan in found]


def build_amx(spec: ConvSpec, epilogue: Epilogue, threads: int, choice: Choice) -> tuple[Any, WeightLayout]:
    """The function of a choice and the layout of its weights."""
    plan = Plan.from_parameters(dict(choice.parameters))
    return conv_amx(spec, epilogue, threads, plan), amx_layout(spec)
