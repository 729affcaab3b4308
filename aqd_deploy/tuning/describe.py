"""What `aqd-deploy tune` tells: JSON documents, and the same as text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from aqd_deploy.compiler.lower import complete_target
from aqd_deploy.compiler.planning import plan_model
from aqd_deploy.devices.rpc_tracker import Tracker
from aqd_deploy.errors import RecordsError
from aqd_deploy.records.file import FILE_NAME, Header, records_for
from aqd_deploy.tables import table
from aqd_deploy.targets import Target
from aqd_deploy.targets.cpu import usual_threads
from aqd_deploy.tuning.failures import cannot_go_on
from aqd_deploy.tuning.progress import Progress, Standing, TaskState, network_seconds
from aqd_deploy.tuning.replay import replay
from aqd_deploy.tuning.tune import task_states, tune

DOCUMENT = 1


def tasks(model: onnx.ModelProto, target: Target, threads: int | None, folder: Path) -> dict[str, Any]:
    """The tasks of a network, with what `folder` has on them: nothing is measured or written."""
    device = complete_target(target)
    states = task_states(plan_model(model), device, threads or usual_threads())
    found = records_for(folder, device)
    for state in states:
        state.replay(found.candidates)
    return _document(device, threads, states, found.notes)


def tuned(
    model: onnx.ModelProto,
    target: Target,
    threads: int | None,
    folder: Path,
    budget: float,
    started: float,
    on_progress: Callable[[Progress], None],
    tracker: Tracker | None = None,
) -> dict[str, Any]:
    """Tune, and tell what came out; see `tune.tune`."""
    report = tune(
        model,
        folder,
        budget=budget,
        target=target,
        threads=threads,
        tracker=tracker,
        started=started,
        on_progress=on_progress,
    )
    return {
        **_document(target, threads, report.states, report.notes),
        "records": str(folder / FILE_NAME),
        "elapsed_seconds": round(report.seconds, 2),
        "measured": report.measured,
    }


def replayed(
    model: onnx.ModelProto,
    target: Target,
    threads: int | None,
    folder: Path,
    name: str,
    tracker: Tracker | None = None,
) -> dict[str, Any]:
    """Measure one record again; see `tune.replay`. Raises RecordsError where it is not exact any more,
    TuningError where the machine does not let it be measured.
    """
    again = replay(model, folder, name, target=target, threads=threads, tracker=tracker)
    if again.measured.lost:
        raise cannot_go_on(again.measured.error, "" if tracker is None else tracker.text)
    if again.measured.error:
        raise RecordsError("the record does not hold", received=again.measured.error)
    return {
        "document": DOCUMENT,
        "task": again.task.key,
        "convolution": str(again.task),
        "layers": again.layers,
        "choice": str(again.record.choice),
        "default": str(again.default),
        "recorded_ms": milliseconds(again.record.seconds),
        "ms": milliseconds(min(again.measured.seconds)),
        "default_ms": milliseconds(min(again.measured.incumbent, default=None)),
        "differing_integers": 0,
        "notes": [],
    }


def _document(
    device: Target, threads: int | None, states: list[TaskState], notes: list[str]
) -> dict[str, Any]:
    default, best = network_seconds(states)
    total = sum(state.total_seconds for state in states)
    macs = sum(state.use.macs for state in states)
    known = default is not None
    return {
        "document": DOCUMENT,
        "target": device.name,
        "header": Header.here(device).to_json(),
        "threads": threads or usual_threads(),
        "default_ms": milliseconds(default),
        "best_ms": milliseconds(best),
        "share_of": "time" if known else "multiply-accumulates",
        "tasks": [
            {
                "task": state.use.task.key,
                "convolution": str(state.use.task),
                "layers": state.use.layers,
                "share": round(state.total_seconds / total if known else state.use.macs / macs, 4),
                "space": len(state.space),
                **standing(state),
            }
            for state in states
        ],
        "notes": notes,
    }


def standing(state: Standing) -> dict[str, Any]:
    """What a document says of a task's records."""
    return {
        "measured": state.measured,
        "accepted": state.accepted,
        "rejected": state.rejected,
        "default_ms": milliseconds(state.default_seconds),
        "best_ms": milliseconds(state.seconds),
        "choice": str(state.best),
    }


def milliseconds(seconds: float | None) -> float | None:
    """As documents have them: kernels of cards take a few µs."""
    return None if seconds is None else round(seconds * 1e3, 5)


def tasks_text(document: dict[str, Any]) -> str:
    """The table of the tasks."""
    rows = [
        [
            _short(t["task"]),
            t["convolution"],
            len(t["layers"]),
            f"{100 * t['share']:.1f} %",
            t["space"],
            t["measured"],
        ]
        for t in document["tasks"]
    ]
    text = table(["task", "convolution", "layers", "share", "choices", "measured"], rows)
    return f"{text}\nshare: of the {document['share_of']}"


def _short(task: str) -> str:
    """As much of a task's name as tells it from others, and as `--replay` takes."""
    return task[:8]


def tuned_text(document: dict[str, Any]) -> str:
    """The tasks that changed, and the time of the network."""
    rows = [
        [
            _short(t["task"]),
            t["convolution"],
            len(t["layers"]),
            t["default_ms"],
            t["best_ms"],
            t["choice"].partition("(")[0],
        ]
        for t in document["tasks"]
        if t["best_ms"] is not None
    ]
    lines = [table(["task", "convolution", "layers", "default", "best ms", "kernel"], rows)]
    if document["best_ms"] is not None:
        lines.append(f"all convolutions: {document['default_ms']:.2f} -> {document['best_ms']:.2f} ms")
    lines.append(
        f"{document['measured']} candidates in {document['elapsed_seconds']:.0f} s; {document['records']}"
    )
    return "\n".join(lines)


def replayed_text(document: dict[str, Any]) -> str:
    """One record in a few lines."""
    return "\n".join(
        f"{name}: {document[name]}"
        for name in ("task", "convolution", "choice", "default", "recorded_ms", "ms", "default_ms")
    )
