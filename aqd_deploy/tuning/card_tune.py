"""Tuning for a card: what `aqd-deploy tune` does for such a target, and tells.

Where the card and a compiler are in one machine, a batch is made and measured at once. Its documents have the
keys of those for CPUs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx

from aqd_deploy.compiler.nvcc import find_cuda_compiler
from aqd_deploy.errors import DeviceError, RecordsError
from aqd_deploy.files import TemporaryFolder
from aqd_deploy.records.file import FILE_NAME, Header, records_for
from aqd_deploy.runtime.cuda_driver import CudaDriver
from aqd_deploy.targets import Target, cards
from aqd_deploy.tuning.card_batch import Batch, CardUse, card_uses, left_to_try, write_batch
from aqd_deploy.tuning.card_measure import CardReport, CardState, measure_batch, states_of
from aqd_deploy.tuning.describe import DOCUMENT, milliseconds, standing

COMPILING = 0.6
"""The share of the budget after which no candidate's compilation begins, where it is measured at once."""
Listener = Callable[[str, int, int], None]
"""Hears what is done, how many of it are, and how many there will be."""


def tasks(model: onnx.ModelProto, device: Target, images: int, folder: Path) -> dict[str, Any]:
    """The tasks of a network, with what `folder` has on them: nothing is measured or written."""
    uses, records = card_uses(model, device, images), records_for(folder, device)
    states = states_of(uses, records.candidates)
    return _document(Header.here(device), images, states, records.notes)


def batched(
    model: onnx.ModelProto, device: Target, images: int, folder: Path, output: Path, deadline: float,
    listen: Listener,
) -> dict[str, Any]:  # fmt: skip
    """Write the batch `output` of what the records in `folder` do not tell yet; see `write_batch`. Raises
    RecordsError where they tell everything.
    """
    uses, records = card_uses(model, device, images), records_for(folder, device)
    batch = _compile(model, left_to_try(uses, records), device, images, output, deadline, listen)
    states = states_of(uses, records.candidates)
    return {
        **_document(batch.header, images, states, records.notes),
        "batch": str(output),
        "programs": batch.programs,
        "bytes": output.stat().st_size,
    }


def measured(path: Path, folder: Path, index: int, deadline: float, listen: Listener) -> dict[str, Any]:
    """Measure the batch at `path` on card `index`; see `measure_batch`."""
    report = measure_batch(
        path, folder, open_driver=lambda: CudaDriver(index), card_name=cards.name(index), deadline=deadline,
        on_program=lambda done, total: listen("programs measured", done, total),
    )  # fmt: skip
    return _told(report, folder, report.seconds)


def tuned(
    model: onnx.ModelProto, device: Target, images: int, folder: Path, index: int, started: float,
    budget: float, listen: Listener,
) -> dict[str, Any]:  # fmt: skip
    """Make a batch and measure it on card `index`, within `budget` seconds of `started`. Raises what
    `batched` and `measured` raise, DeviceError where there is no such card, before anything is compiled.
    """
    _check_card(index)
    with TemporaryFolder() as scratch:
        batch = scratch / "candidates.batch"
        batched(model, device, images, folder, batch, started + COMPILING * budget, listen)
        document = measured(batch, folder, index, started + budget, listen)
    return {**document, "elapsed_seconds": round(time.monotonic() - started, 2)}


def _check_card(index: int) -> None:
    try:
        cards.architecture(index)
    except DeviceError as error:
        raise DeviceError(
            error.what, received=error.received,
            valid="a machine with a card, or --batch FILE, whose candidates are measured where the card is",
            next_command="aqd-deploy tune MODEL.onnx --target NAME --batch FILE",
        ) from error  # fmt: skip


def _compile(
    model: onnx.ModelProto, uses: Sequence[CardUse], device: Target, images: int, output: Path,
    deadline: float, listen: Listener,
) -> Batch:  # fmt: skip
    compiler = find_cuda_compiler()
    if all(len(use.choices) == 1 for use in uses):
        raise RecordsError(
            "nothing is left to try: the records have every kernel of this network",
            valid="another folder of records, to measure them again",
            next_command="aqd-deploy compile MODEL.onnx --target NAME --tuned DIR -o PROGRAM.so",
        )
    return write_batch(
        model, uses, output, device=device, compiler=compiler, images=images, deadline=deadline,
        on_program=lambda done, total: listen("programs compiled", done, total),
    )  # fmt: skip


def _told(report: CardReport, folder: Path, seconds: float) -> dict[str, Any]:
    return {
        **_document(report.header, report.batch.images, report.states, report.notes),
        "records": str(folder / FILE_NAME),
        "elapsed_seconds": round(seconds, 2),
        "measured": report.candidates,
    }


def _document(
    header: Header, images: int, states: Sequence[CardState], notes: Sequence[str]
) -> dict[str, Any]:
    known = all(state.default_seconds is not None for state in states)
    default = sum(_of_all(state, state.default_seconds) for state in states) if known else None
    best = sum(_of_all(state, state.seconds) for state in states) if known else None
    weights = [_of_all(state, state.seconds) if known else state.use.macs for state in states]
    total = sum(weights)
    return {
        "document": DOCUMENT,
        "target": header.profile,
        "header": header.to_json(),
        "images": images,
        "default_ms": milliseconds(default),
        "best_ms": milliseconds(best),
        "share_of": "time" if known else "multiply-accumulates",
        "tasks": [
            {
                "task": state.use.key,
                "convolution": state.use.convolution,
                "layers": state.use.names,
                "share": round(weight / total, 4),
                "space": state.use.space,
                **standing(state),
            }
            for state, weight in zip(states, weights, strict=True)
        ],
        "notes": list(notes),
    }


def _of_all(state: CardState, seconds: float | None) -> float:
    """Seconds of all layers of a task."""
    return (seconds or 0.0) * len(state.use.layers)


def batched_text(document: dict[str, Any]) -> str:
    """What was written, and what comes next."""
    size = document["bytes"] / 1e6
    return (
        f"{document['batch']}: {document['programs']} programs, {size:.1f} MB\n"
        f"next, where the card is: aqd-deploy tune {document['batch']} --records DIR"
    )
