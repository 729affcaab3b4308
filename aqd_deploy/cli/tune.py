"""`aqd-deploy tune`: find the fastest kernels for a network on this machine, or on boards or a card."""

from __future__ import annotations

import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aqd_deploy.cli.card_tuning import measure_batch, tell, tune_for_card
from aqd_deploy.cli.options import (
    DurationType,
    ShapeType,
    clock,
    device_of,
    existing,
    json_option,
    numerics_option,
    threads_option,
)
from aqd_deploy.cli.output import StatusLine, progress, verb

if TYPE_CHECKING:
    from aqd_deploy.targets import Target
    from aqd_deploy.tuning.progress import Progress

# The least time between two lines where nobody looks at a terminal.
_LINE_SECONDS = 10.0


@verb(name="tune")
@click.argument("model", type=existing("MODEL.onnx|BATCH"))
@click.option("--target", default="host", show_default=True,
              help="A profile's name (see `aqd-deploy targets`) that this machine can run.")  # fmt: skip
@click.option("--budget", type=DurationType(), default="10m", show_default=True,
              help="Time for everything, for example 90s, 10m or 1h30m.")  # fmt: skip
@click.option("--records", type=click.Path(path_type=Path, file_okay=False), default=Path("tuning"),
              show_default=True, help="Folder of the records; a later run goes on with it.")  # fmt: skip
@click.option("--device", metavar="DEVICE",
              help="Where candidates run: local, all boards with a key: rpc:HOST:PORT/KEY, or a card: "
              "cuda[:N].  [default: the device that the target's profile names, or local]")  # fmt: skip
@threads_option
@numerics_option
@click.option("--shape", type=ShapeType(), help="Static shape for a dynamic input, for example 1x3x320x320.")
@click.option("--images", type=click.IntRange(1, 256), default=1, show_default=True,
              help="Images that one run takes; more than one on a card only.")  # fmt: skip
@click.option("--batch", type=click.Path(path_type=Path, dir_okay=False),
              help="Compile the candidates for a card into this file and measure nothing: `tune` of the file "
              "does that, on the machine with the card.")  # fmt: skip
@click.option(
    "--dry-run", is_flag=True, help="List the tasks and the sizes of their spaces, measure nothing."
)
@click.option("--replay", "task", metavar="TASK", help="Build, check and time the best record of one task.")
@json_option
def command(
    model: Path, target: str, budget: float, records: Path, device: str | None, threads: int | None,
    numerics: str, shape: tuple[int, ...] | None, images: int, batch: Path | None, dry_run: bool,
    task: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Measure kernels for a QDQ or integer ONNX file and keep the fastest for `compile --tuned`.

    For a card, --batch writes a file of candidates that are measured where the card is: by `tune` of that
    file, which needs no compiler.
    """
    started = time.monotonic()
    from aqd_deploy import targets

    if model.is_file() and zipfile.is_zipfile(model):
        measure_batch(model, records, device, budget, as_json)
        return
    chosen = targets.get(target)
    from aqd_deploy.kernels.backends import is_card

    if is_card(chosen.backend):
        from aqd_deploy.cli.models import integer_model_of

        if task is not None or threads is not None:
            raise click.UsageError("--replay and --threads are for the targets of CPUs")
        if batch is not None and (device is not None or dry_run):
            raise click.UsageError("--batch runs nothing and writes: without --device and --dry-run")
        proto, _ = integer_model_of(model, numerics, shape)
        tune_for_card(
            proto, model, chosen, images=images, records=records, device=device, budget=budget,
            started=started, batch=batch, dry_run=dry_run, as_json=as_json,
        )  # fmt: skip
        return
    if batch is not None or images != 1:
        raise click.UsageError("--batch and --images are for the targets of cards")
    _tune_for_cpu(
        model, chosen, numerics=numerics, shape=shape, records=records, device=device, threads=threads,
        budget=budget, started=started, dry_run=dry_run, task=task, as_json=as_json,
    )  # fmt: skip


def _tune_for_cpu(
    model: Path, chosen: Target, *, numerics: str, shape: tuple[int, ...] | None, records: Path,
    device: str | None, threads: int | None, budget: float, started: float, dry_run: bool, task: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """On this machine, or on boards."""
    from aqd_deploy.devices import LOCAL
    from aqd_deploy.devices.kinds import names_tracker

    # It measures nothing: of a device it asks at most how many threads the boards of a tracker have.
    if dry_run and device is None and not names_tracker(chosen.device):
        device = LOCAL
    tracker = _tracker(device_of(chosen, device))
    if tracker is not None:
        threads = threads or chosen.cores
    from aqd_deploy.runtime import backend

    # Brings TVM's runtime in without PyTorch, which it would import for seconds.
    backend.ffi()
    from aqd_deploy.cli.models import integer_model_of
    from aqd_deploy.tuning import describe

    proto, _ = integer_model_of(model, numerics, shape)
    if dry_run:
        document = describe.tasks(proto, chosen, threads, records)
        text = describe.tasks_text
    elif task is not None:
        document = describe.replayed(proto, chosen, threads, records, task, tracker)
        text = describe.replayed_text
    else:
        progress(f"tuning for {clock(budget)}, with the records of {records}; it may be interrupted")
        with StatusLine() as line:
            show = _Display(line)
            document = describe.tuned(proto, chosen, threads, records, budget, started, show, tracker)
        text = describe.tuned_text
    tell(document, text, as_json)


def _tracker(device: str) -> Any:
    """The tracker whose boards measure; None for this machine."""
    from aqd_deploy.devices import open_device
    from aqd_deploy.errors import DeviceError

    try:
        opened = open_device(device)
    except DeviceError:
        opened = None
    if opened is None or not (opened.here or opened.tracker is not None):
        raise DeviceError(
            "candidates are measured on this machine or on boards of a TVM RPC tracker",
            received=repr(device),
            valid="local, rpc:HOST:PORT/KEY",
        )
    return opened.tracker


class _Display:
    """Progress on stderr: one line that is rewritten on a terminal, elsewhere a line now and then."""

    def __init__(self, line: StatusLine) -> None:
        self.line = line
        self.told: float | None = None

    def __call__(self, now: Progress) -> None:
        text = f"{clock(now.elapsed)} of {clock(now.budget)}  {now.measured} measured"
        if now.seconds is None or now.default_seconds is None:
            text += f"  defaults of {now.started} of {now.tasks} tasks"
        else:
            text += f"  convolutions {now.default_seconds * 1e3:.2f} -> {now.seconds * 1e3:.2f} ms"
        if now.task is not None:
            text += f"  {now.task.use.task}"
        self.line.show(text)
        if not self.line.shown and (self.told is None or now.elapsed - self.told >= _LINE_SECONDS):
            self.told = now.elapsed
            progress(text)
