"""The part of `aqd-deploy tune` for graphics cards, whose candidates are whole programs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aqd_deploy.cli.options import clock, refuse_others
from aqd_deploy.cli.output import StatusLine, print_json, print_text, progress
from aqd_deploy.files import check_output

if TYPE_CHECKING:
    from onnx import ModelProto

    from aqd_deploy.targets import Target

_CARD = "cuda"


def tune_for_card(
    model: ModelProto, source: Path, target: Target, *, images: int, records: Path, device: str | None,
    budget: float, started: float, batch: Path | None, dry_run: bool, as_json: bool,
) -> None:  # fmt: skip
    """The tasks, a batch for another machine, or records by this machine's card."""
    from aqd_deploy.tuning import card_tune, describe

    if dry_run:
        tell(card_tune.tasks(model, target, images, records), describe.tasks_text, as_json)
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
    tell(document, describe.tuned_text if batch is None else card_tune.batched_text, as_json)


def measure_batch(batch: Path, records: Path, device: str | None, budget: float, as_json: bool) -> None:
    """Records of the programs of a batch, by this machine's card."""
    started = time.monotonic()
    refuse_others("a batch is measured as it is", "model", "records", "device", "budget", "as_json", "debug")
    from aqd_deploy.tuning import card_tune, describe

    with StatusLine() as line:
        show = _Display(line, started, budget)
        document = card_tune.measured(batch, records, _index(device), started + budget, show)
    tell(document, describe.tuned_text, as_json)


def tell(document: dict[str, Any], text: Callable[[dict[str, Any]], str], as_json: bool) -> None:
    """A document of `tuning`, as JSON or by `text`; its notes are progress."""
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
