"""A training run on disk: `last.pt`, from which a killed run goes on as if it had not been."""

from __future__ import annotations

import copy
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from aqd_deploy.errors import CheckpointError, TrainingError, line_of
from aqd_deploy.inputs import parse_json
from aqd_deploy.qat.archive import read_archive, write_archive
from aqd_deploy.qat.config import ModelConfig
from aqd_deploy.qat.models import unwrapped
from aqd_deploy.qat.soundness import check_network
from aqd_deploy.schema import SchemaError, number, table, whole

_SCHEMA = table({
    "iterations": whole(1), "learning_rate": number(0, 1000), "weight_decay": number(0, 1000),
    "warmup": whole(0),
    "clip_norm": number(above=0), "seed": whole(-(1 << 63)), "log_every": whole(1),
    "checkpoint_every": whole(1),
})  # fmt: skip


@dataclass(frozen=True)
class TrainSettings:
    """How long and how fast: learning rates rise for `warmup` iterations and fall on a cosine to zero.

    Raises TrainingError for a setting that is out of its range.
    """

    iterations: int
    learning_rate: float = 1e-3
    weight_decay: float = 0.02
    warmup: int = 200
    clip_norm: float = 10.0
    seed: int = 0
    log_every: int = 50
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        try:
            _SCHEMA(dataclasses.asdict(self), "")
        except SchemaError as error:
            raise error.of("the training settings", TrainingError) from error


def save_progress(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, iteration: int, settings: TrainSettings
) -> None:
    """Writes what `resume` reads, of a Detector or one that torch.compile or DistributedDataParallel wraps.
    CheckpointError or ScaleError for a network that could not go on: then the old file stays.
    """
    model = unwrapped(model)
    check_network(model, f"the network after iteration {iteration}")
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "config": model.config.to_json(),
        "iterations": settings.iterations,
        "settings": json.dumps(dataclasses.asdict(settings), default=lambda number: number.item()),
        "iteration": iteration,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
    }
    write_archive(path, content)


def resume(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, settings: TrainSettings
) -> tuple[int, list[str]]:
    """Loads a run's progress into `model`, wrapped or not, and `optimizer`; returns the iterations done, and
    a sentence for each setting that is another than the run had: `settings` hold from here on.

    Raises CheckpointError where the file is damaged, of another network or another seed, or has done more
    iterations than `settings` ask for; ScaleError for a step in it that is not positive. Nothing is loaded
    then.
    """
    model = unwrapped(model)
    content = read_archive(path)
    anew = f"remove {path} to start anew"
    told = content.get("config")
    if not isinstance(told, str):
        raise CheckpointError(
            f"{path} is not the progress of a run: it does not describe its network", next_command=anew
        )
    if ModelConfig.from_json(told) != model.config:
        raise CheckpointError(f"{path} belongs to another run (the networks differ)", next_command=anew)
    # Copied together, so that the optimizer's parameters are the network's.
    trial, trial_optimizer = copy.deepcopy((model, optimizer))
    try:
        before = _settings_of(content)
        iteration = content["iteration"]
        whole(0)(iteration, "iteration")
        trial.load_state_dict(content["model"])
        trial_optimizer.load_state_dict(content["optimizer"])
        _check_moments(trial_optimizer, iteration)
        torch.Generator().set_state(content["rng"])
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} is not the progress of a run: {line_of(error)}",
            next_command=anew,
        ) from error
    check_network(trial, str(path))
    if before.get("seed", settings.seed) != settings.seed:
        raise CheckpointError(
            f"{path} belongs to another run (the seeds differ)",
            received=settings.seed, valid=str(before["seed"]), next_command=anew,
        )  # fmt: skip
    if iteration > settings.iterations:
        raise CheckpointError(
            f"the run in {path} has gone further than it is asked to",
            received=f"{settings.iterations} iterations", valid=f"{iteration} or more", next_command=anew,
        )  # fmt: skip
    _load(content, model, optimizer)
    now = dataclasses.asdict(settings)
    return iteration, [f"{key} {old} -> {now[key]}" for key, old in before.items() if now.get(key) != old]


def _load(content: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Loads what a trial has shown to be sound."""
    # What the optimizer of these settings has; its own state would bring back the old ones.
    groups = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    model.load_state_dict(content["model"])
    optimizer.load_state_dict(content["optimizer"])
    for group, current in zip(optimizer.param_groups, groups, strict=True):
        group.update(current)
    torch.set_rng_state(content["rng"])


def _settings_of(content: dict[str, Any]) -> dict[str, Any]:
    """The settings a run had, those that its file tells."""
    told = content.get("settings")
    if told is None:
        return {"iterations": content["iterations"]}
    settings = parse_json(told)
    _SCHEMA(settings, "settings")
    return {key: settings[key] for key in dataclasses.asdict(TrainSettings(1))}


def _check_moments(optimizer: torch.optim.Optimizer, iteration: int) -> None:
    """Raise ValueError where a moment is missing, not of its parameter's shape, not finite or negative where
    it counts or is a square.
    """
    if iteration and not optimizer.state:
        raise ValueError("the optimizer has no moments")
    for parameter, moments in optimizer.state.items():
        missing = sorted({"step", "exp_avg", "exp_avg_sq"} - set(moments))
        if missing:
            raise ValueError(f"{missing[0]} is missing")
        for key, value in moments.items():
            if key != "step" and value.shape != parameter.shape:
                raise ValueError(f"{key} is {list(value.shape)}, not {list(parameter.shape)}")
            if not bool(torch.isfinite(value).all()):
                raise ValueError(f"{key} is not finite")
            if key != "exp_avg" and float(value.min()) < 0:
                raise ValueError(f"{key} is negative")
