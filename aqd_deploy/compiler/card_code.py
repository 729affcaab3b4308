"""A program for a card: plan, launches, a cubin, and the stored bytes behind it.

A cubin is an ELF file as a shared library is, so the program's file is the same container: the cubin, then
what it stores. Nothing in it is for the CPU of a machine.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx

from aqd_deploy.compiler.launch_section import functions_of, launch_section
from aqd_deploy.compiler.launches import BuiltLaunches, build_launches
from aqd_deploy.compiler.nvcc import CudaCompiler
from aqd_deploy.compiler.plan import Plan
from aqd_deploy.compiler.planning import plan_for_card
from aqd_deploy.compiler.stages import Stages
from aqd_deploy.compiler.tuning_summary import tuning_summary
from aqd_deploy.compiler.weights import weights_by_bits
from aqd_deploy.files import TemporaryFolder
from aqd_deploy.kernels.backends import card_backend_of
from aqd_deploy.kernels.contract.choice import Choice
from aqd_deploy.kernels.contract.launches import Region
from aqd_deploy.records.lookup import Tuned, load_tuned
from aqd_deploy.records.task import CardTask
from aqd_deploy.targets import Target

_TOLD = re.compile(
    r"entry function '(k\d+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores.*?Used (\d+) registers",
    re.DOTALL,
)


class CardMaker:
    """See `build.Maker`. Raises TargetError where the profile names no card."""

    def __init__(
        self, device: Target, compiler: CudaCompiler, images: int, tuned: str | Path | Tuned | None = None
    ) -> None:
        self.device, self.compiler, self.images, self.tuned = device, compiler, images, tuned
        self.backend = card_backend_of(device)
        self.of_other_cpus: Sequence[str] = ()

    def plan(self, model: onnx.ModelProto) -> Plan:
        return plan_for_card(model)

    def complete(self, stages: Stages) -> Target:
        self.choices = load_tuned(self.tuned, self.device)
        self.of_other_cpus = self.choices.of_other_cpus
        return self.device

    def told(self) -> dict[str, str]:
        return {"card": self.device.card, "toolkit": self.compiler.version()}

    def build(self, plan: Plan, stages: Stages) -> dict[str, Any]:
        with stages.timed("kernels"):
            built = build_launches(plan, self.backend, self.images, self._find)
        functions = functions_of(built)
        temporary = TemporaryFolder()
        with stages.timed("codegen"), temporary as folder, temporary.writing():
            source, included = self.backend.source(functions), self.backend.sources()
            self.code, told = self.compiler.compile(source, included, self.device.card, folder)
        self.code += bytes(-len(self.code) % 64)
        self.stored = built.data.content()
        section = launch_section(built, len(self.code), plan.inputs, plan.outputs)
        section["assembler"] = _assembler(told)
        return {
            "launches": section,
            "weights": {**weights_by_bits(built.weights), "expanded_bytes": built.kept_bytes},
            "layers": [asdict(layer) for layer in built.layers],
            "memory": _memory(built),
            "tuning": tuning_summary(built, self.choices),
        }

    def _find(self, task: CardTask, _: object) -> tuple[Choice | None, str]:
        return self.choices.find(task)

    def write(self, path: Path, stages: Stages) -> None:
        path.write_bytes(self.code + self.stored)


def _memory(built: BuiltLaunches) -> dict[str, int]:
    """Bytes on the card: of everything, and of each region."""
    sizes = built.region_bytes()
    return {"bytes": sum(sizes.values())} | {f"{region.value}_bytes": sizes[region] for region in Region}


def _assembler(told: str) -> list[dict[str, int | str]]:
    """What the assembler told of each function."""
    return [
        {
            "function": name,
            "registers": int(registers),
            "stack_bytes": int(stack),
            "spilled_bytes": int(spilled),
        }
        for name, stack, spilled, registers in _TOLD.findall(told)
    ]
