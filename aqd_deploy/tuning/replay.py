"""One record of a tuning run, measured again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from aqd_deploy.compiler.lower import complete_target
from aqd_deploy.compiler.planning import plan_model
from aqd_deploy.devices.rpc_tracker import Tracker
from aqd_deploy.errors import RecordsError
from aqd_deploy.files import TemporaryFolder
from aqd_deploy.kernels.backends import backend_of
from aqd_deploy.kernels.contract.choice import Choice
from aqd_deploy.records.file import Record, RecordsFile
from aqd_deploy.records.task import Task
from aqd_deploy.targets import Target, get
from aqd_deploy.targets.cpu import usual_threads
from aqd_deploy.tuning.engine import Engine, Job, Measured, Trial
from aqd_deploy.tuning.operands import layer_operands
from aqd_deploy.tuning.tune import check_device, device_tasks, records_header, require_extra


@dataclass(frozen=True)
class Replay:
    """One record measured again: the task, its choice and the default, seconds of each, or the error."""

    task: Task
    layers: list[str]
    record: Record
    default: Choice
    measured: Measured


def replay(
    int_model: onnx.ModelProto,
    folder: Path,
    name: str,
    *,
    target: str | Target = "host",
    threads: int | None = None,
    tracker: Tracker | None = None,
) -> Replay:
    """Build, check and time the best record of the task whose key begins with `name`, in turn with the
    task's default, here or on a board of `tracker`.

    Raises RecordsError where the model has no such task or the folder no record of it, and what `tune`
    raises.
    """
    threads = threads or usual_threads()
    device = complete_target(get(target))
    require_extra()
    check_device(device, threads, tracker)
    plan = plan_model(int_model)
    uses = device_tasks(plan, device, threads)
    chosen = [use for use in uses if use.task.key.startswith(name)]
    if len(chosen) != 1 or not name:
        keys = ", ".join(use.task.key for use in uses[:5])
        raise RecordsError(
            "the model has no such task" if not chosen else "several tasks begin like this",
            received=name,
            valid=f"{keys}{', ...' if len(uses) > 5 else ''}",
            next_command="aqd-deploy tune MODEL.onnx --dry-run",
        )
    use = chosen[0]
    with RecordsFile(folder, records_header(device, tracker), device) as file:
        record = file.records.best().get(use.task.key)
    choices = backend_of(device).choices(use.task.spec, use.task.threads)
    if record is None or record.choice not in choices:
        raise RecordsError("there is no record of this task", received=f"{use.task.key} in {folder}",
                           next_command="aqd-deploy tune MODEL.onnx --records DIR")  # fmt: skip
    with TemporaryFolder() as scratch, Engine(device, tracker) as engine:
        operands = scratch / use.task.key
        layer_operands(plan, use.operations[0]).save(operands)
        tuned, default = engine.build(
            [Job(use.task, choice, operands) for choice in (record.choice, choices[0])]
        )
        if tuned.library is None:
            measured = tuned.failure()
        else:
            (measured,) = engine.measure([Trial(use.task, tuned.library, default.library)])
    return Replay(use.task, use.layers, record, choices[0], measured)
