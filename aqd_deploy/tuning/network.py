"""The tasks of a network: which of its convolutions are one kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from aqd_deploy.compiler.plan import Conv, Plan
from aqd_deploy.kernels.contract.caches import CORE, Core
from aqd_deploy.records.task import Task, is_tunable
from aqd_deploy.targets.isa import Isa


@dataclass
class Use:
    """A task in a network: the convolutions of the plan that it stands for, at least one."""

    task: Task
    operations: list[Conv] = field(default_factory=list)

    @property
    def layers(self) -> list[str]:
        """Names of the layers, in the order of execution."""
        return [operation.name for operation in self.operations]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all its layers."""
        return self.task.macs * len(self.operations)


def network_tasks(plan: Plan, isa: Isa, threads: Callable[[Conv], int], core: Core = CORE) -> list[Use]:
    """The tasks of a network, the one with the most arithmetic first; `threads` tells those of a kernel."""
    found: dict[Task, Use] = {}
    for operation in plan.operations:
        if isinstance(operation, Conv) and is_tunable(operation.epilogue):
            task = Task(operation.spec, operation.epilogue, isa, threads(operation), core)
            found.setdefault(task, Use(task)).operations.append(operation)
    return sorted(found.values(), key=lambda use: -use.macs)
