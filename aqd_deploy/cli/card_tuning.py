"""The part of `aqd-deploy tune` for graphics cards, whose candidates are whole programs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aqd_deploy.cli.options import clock
from aqd_deploy.cli.output import StatusLine, print_json, print_text, progress
from aqd_deploy.files import check_output

if TYPE_CHECKING:
    from onnx import ModelProto

    from aqd_deploy.targets import Target

_CARD = "cuda"


def tune_for_card(
    model: ModelProto, source: Path, target: Target, *, images: int, records: Path, device: str | None,
    budget: float, batch: Path | None, dry_run: bool, task: str | None, as_json: bool,
) -> None:  # fmt: skip
    """The tasks, a batch for another machine, or records by this machine's card."""
    started = time.monotonic()
    from aqd_deploy.tuning import card_tune, describe

    if task is not None:
        raise click.UsageError(
            "--replay is for CPUs: of a card, compile with --tuned and compare with aqd-deploy bench"
        )
    if dry_run:
        _tell(card_tune.tasks(model, target, images, records), describe.tasks_text, as_json)
        return
    with StatusLine() as line:
        show = _Display(line, started, budget)
        if batch is not None:
            check_output(batch, source)
            progress(f"compiling candidates for {clock(budget)}, but for those that {records} has")
            document = card_tune.batched(model, target, images, records, batch, started + budget, show)
        else:
            progress(f"tuning for {clock(budget)}, with the records of {records}; it may be interrupted")
            index = _index(device)
            document = card_tune.tuned(model, target, images, records, index, started, budget, show)
    _tell(document, describe.tuned_text if batch is None else card_tune.batched_text, as_json)


def measure_batch(batch: Path, records: Path, device: str | None, budget: float, as_json: bool) -> None:
    """Records of the programs of a batch, by this machine's card."""
    started = time.monotonic()
    from aqd_deploy.tuning import card_tune, describe

    with StatusLine() as line:
        show = _Display(line, started, budget)
        document = card_tune.measured(batch, records, _index(device), started + budget, show)
    _tell(document, describe.tuned_text, as_json)


def _tell(document: dict[str, Any], text: Any, as_json: bool) -> None:
    for note in document["notes"]:
        progress(note)
    if as_json:
        print_json(document)
    else:
        print_text(text(document))


def _index(device: str | None) -> int:
    """The card that --device names, the first one where it names none."""
    from aqd_deploy.devices import open_device
    from aqd_deploy.devices.cuda import CudaDevice
    from aqd_deploy.errors import DeviceError

    opened = open_device(device or _CARD)
    if not isinstance(opened, CudaDevice):
        raise DeviceError(
            "kernels of a card are measured on a card of this machine",
            received=repr(device), valid="cuda[:N], or --batch FILE, to measure them on another machine",
        )  # fmt: skip
    return opened.index


class _Display:
    """Progress on stderr: one line that is rewritten on a terminal, elsewhere a line each time."""

    def __init__(self, line: StatusLine, started: float, budget: float) -> None:
        self.line, self.started, self.budget = line, started, budget

    def __call__(self, what: str, done: int, total: int) -> None:
        elapsed = clock(time.monotonic() - self.started)
        text = f"{elapsed} of {clock(self.budget)}  {done} of {total} {what}"
        self.line.show(text)
        if not self.line.shown:
            progress(text)
