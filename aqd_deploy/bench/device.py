"""Latency of a program on a device, and on a card that of its layers: no peers or memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from aqd_deploy.bench.document import bench_document, measured_with
from aqd_deploy.bench.estimate import peak_of
from aqd_deploy.bench.layers import DATA_SHEET, Roof, between_layers, family_totals, layer_table
from aqd_deploy.devices import open_device
from aqd_deploy.devices.device import TimesLayers
from aqd_deploy.environment import environment
from aqd_deploy.errors import DeviceError, TargetError
from aqd_deploy.runtime.bundle_files import program_file
from aqd_deploy.runtime.container import read_manifest
from aqd_deploy.targets import get

_FIGURES = ("clock_ghz", "int8_macs_per_cycle", "cores", "bandwidth_gb_s")


def bench_on_device(
    program: Path,
    device: str,
    *,
    threads: list[int] | None = None,
    rounds: int = 10,
    runs: int = 3,
    layers: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Latency of `program` on `device` (`open_device`), `runs` runs in each of `rounds` calls of the device.

    `threads` are the numbers of threads to measure, by default the program's own, each brought down to what
    the device uses of it; `layers` adds the layer table, beside the data sheet of the program's target.
    Returns the document of `bench`, with the device's name under `device`; its `environment` is this
    machine's. Raises DeviceError, ProgramError, and TargetError where that data sheet is not known.
    """
    opened = open_device(device, timing=True)
    if layers and not isinstance(opened, TimesLayers):
        raise _only_here("--layers", device)
    manifest = read_manifest(program_file(program))
    compiled = manifest["program"]["threads"]
    asked = dict.fromkeys(threads or [compiled])
    counts = list(dict.fromkeys(min(count, compiled) for count in asked))
    used = {count: count for count in counts}
    try:
        seconds: dict[int, list[list[float]]] = {count: [] for count in counts}
        for index in range(rounds):
            progress(f"round {index + 1} of {rounds} on {opened.text}")
            for count in counts:
                seconds[count].append(opened.time(program, runs, 1, count))
                used[count] = opened.used_threads or count
        by_layer = opened.time_layers(program) if layers and isinstance(opened, TimesLayers) else []
    finally:
        opened.close()
    by_used = {used[count]: np.array(values) for count, values in seconds.items()}
    measured = [measured_with(count, values) for count, values in by_used.items()]
    if layers:
        fastest = float(min(values.min() for values in by_used.values()))
        measured[0] |= _of_layers(manifest["program"], by_layer, fastest)
    return bench_document(
        program,
        manifest,
        device=opened.text,
        environment=environment(),
        rounds=rounds,
        runs=runs,
        notes=_threads_note({count: used[min(count, compiled)] for count in asked}, compiled),
        measured=measured,
    )


def check_only_latency(device: str, asked: dict[str, object]) -> None:
    """Raise DeviceError where an option (by its name) asks for what only this machine can measure."""
    for option, value in asked.items():
        if value:
            raise _only_here(option, device)


def _only_here(option: str, device: str) -> DeviceError:
    return DeviceError(
        f"{option} measures on this machine only",
        received=f"--device {device}",
        valid="--threads, --rounds, --runs, --max-ms, --json",
        next_command=f"the same command without {option}",
    )


def _of_layers(program: dict[str, Any], seconds: list[float], fastest: float) -> dict[str, Any]:
    """The layer table of a card, beside what its data sheet says."""
    roof = _data_sheet(program["target"]["profile"])
    named = [(layer["name"], each) for layer, each in zip(program["layers"], seconds, strict=True)]
    table = layer_table([named], program["layers"], roof, fastest)
    return {
        "peak_gmacs_per_s": {DATA_SHEET: round(roof.peak / 1e9, 2)},
        "read_gb_per_s": {DATA_SHEET: round(roof.memory / 1e9, 2)},
        "layers": table,
        "between_layers": between_layers(table, fastest),
        "families": family_totals(table, roof),
    }


def _data_sheet(profile: str) -> Roof:
    """What the profile of a device says of it. Raises TargetError where it does not say enough."""
    target = get(profile)
    rate = peak_of(target, target.cores) if target.cores else None
    if rate is None or target.bandwidth_gb_s is None:
        missing = [key for key in _FIGURES if getattr(target, key) is None]
        raise TargetError(
            f"the profile {profile} does not tell what the device could do",
            received=f"no {', '.join(missing)}", valid=f"a profile with {', '.join(_FIGURES)}",
            next_command="the same command without --layers",
        )  # fmt: skip
    return Roof(rate, target.bandwidth_gb_s * 1e9)


def _threads_note(used: dict[int, int], compiled: int) -> dict[str, str]:
    """What was asked for and is not used, by number of threads."""
    told = ", ".join(f"{number} in place of {count}" for count, number in used.items() if number < count)
    return (
        {"threads": f"{told}: the program was compiled for {compiled}, or the device has fewer"}
        if told
        else {}
    )
