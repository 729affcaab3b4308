"""The part of `aqd-deploy quantize` that searches for bits: its options, and what they mean."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aqd_deploy.cli.options import existing, threads_option

if TYPE_CHECKING:
    from onnx import ModelProto

    from aqd_deploy.quantization.calibration import Calibration
    from aqd_deploy.quantization.progress import Run
    from aqd_deploy.quantization.recipe import Recipe
    from aqd_deploy.records.lookup import Tuned
    from aqd_deploy.targets import Target
    from aqd_deploy.workflow.search import Found

_LIMIT = click.FloatRange(min=0, min_open=True)
_OPTIONS = (
    click.option("--search", "searches", is_flag=True, help="Find the bits of each layer under one limit:"),
    click.option("--max-ms", type=_LIMIT, help="Estimated milliseconds of a run on --target."),
    click.option("--max-mb", type=_LIMIT, help="Weights as stored, in MB of 2^20 bytes."),
    click.option("--max-drop", type=_LIMIT, help="What may be lost: of a detector, points of AP on its float "
                 "network's own boxes; else the mean square of its outputs' errors."),
    click.option("--target", help="What the network is to run on; see `aqd-deploy targets`.  [default: host; "
                 "with --max-mb none, so that no times are told]"),
    click.option("--tuned", type=existing("DIR"), help="Records of `aqd-deploy tune` of the network at "
                 "several widths: their times stand in the place of estimates."),
    threads_option,
)  # fmt: skip


def search_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a search, for the verb."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def limit_of(options: dict[str, Any]) -> tuple[str, float] | None:
    """The goal and its limit, taken out of the options; None where nothing is searched for. Raises
    click.UsageError for limits without --search, and for none or several of them.
    """
    searches = options.pop("searches")
    limits = {name: options.pop(f"max_{name.lower()}") for name in ("ms", "MB", "drop")}
    given = [(name, value) for name, value in limits.items() if value is not None]
    if not searches and (given or options["tuned"] is not None):
        raise click.UsageError("--max-ms, --max-mb, --max-drop and --tuned go with --search")
    if searches and len(given) != 1:
        raise click.UsageError("--search needs one of --max-ms, --max-mb and --max-drop")
    return given[0] if searches else None


def search_bits(
    model: ModelProto, images: Calibration, recipe: Recipe, limit: tuple[str, float],
    options: dict[str, Any], run: Run, described: dict[str, Any],
) -> Found:  # fmt: skip
    """What `workflow.search` finds. Raises what it raises."""
    from aqd_deploy import targets
    from aqd_deploy.compiler.build import default_threads
    from aqd_deploy.workflow.search import Goal, search

    goal = Goal(limit[0])
    name = options["target"] or (None if goal is Goal.MB else "host")
    target = None if name is None else targets.get(name)
    tuned = _tuned(options["tuned"], target, run)
    threads = options["threads"] or (1 if target is None else default_threads(target))
    return search(
        model, images, recipe, goal, limit[1], target=target, threads=threads, run=run, described=described,
        tuned=tuned,
    )  # fmt: skip


def _tuned(records: Path | None, target: Target | None, run: Run) -> Tuned | None:
    """The records of --tuned, of which a warning tells what is left out. Raises RecordsError where there are
    none, click.UsageError where no times are asked for.
    """
    if records is None:
        return None
    if target is None:
        raise click.UsageError("--tuned tells times, which --max-mb asks for with --target only")
    from aqd_deploy.records.lookup import load_tuned

    tuned = load_tuned(records, target)
    for note in tuned.notes:
        run.warn(note)
    return tuned
