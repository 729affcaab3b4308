"""One call of `run.py`: composes, trains what is not trained yet, measures, writes results as they come."""

from __future__ import annotations

import itertools
import json
import math
import platform
import re
import sys
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import arms
import data
import heldout
import numpy as np
import scales
import torch
from arms import Arm
from batches import Draws, Images, batch_of
from trainer import Trainer

from aqd_deploy.errors import AqdError
from aqd_deploy.files import write_text
from aqd_deploy.qat.checkpoint import load_checkpoint, save_checkpoint
from aqd_deploy.qat.estimates import due
from aqd_deploy.qat.models import build_model, calibrate

CALIBRATION_BATCHES = 8
RATE_ROUNDS = 10  # of a measurement of how fast the arms are
SHARE = (0.33, 0.95)  # of the seconds left: what float arms take, and quantized ones of the rest
OVERTIME = 1.1  # behind this much more than planned, arms stop as they are
TOGETHER = 50  # iterations that are queued before anybody waits for the card


@dataclass(frozen=True)
class Settings:
    """What `run.py` is told; `iterations` of float and of quantized arms, `seconds` until training ends."""

    work: Path
    iterations: tuple[int, int]
    seconds: float | None
    eager: bool
    train_images: int
    heldout_images: int
    batch: int
    size: int
    command: str


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


class Session:
    """The arms of some studies on the card, or on the CPU where there is none; `pool` measures beside it."""

    def __init__(self, settings: Settings, pool: Executor) -> None:
        self.settings, self.pool = settings, pool
        self.device = torch.device("cpu")
        self.began = time.monotonic()
        self.beside = ThreadPoolExecutor(1)
        self.measurements: list[Future] = []
        self.draws: dict[tuple[int, int], Draws] = {}
        for folder in ("arms", "checkpoints", "data"):
            (settings.work / folder).mkdir(parents=True, exist_ok=True)

    def run(self, studies: list[str], only: str) -> None:
        """Trains and measures; AqdError where an arm fails, after the others are written."""
        trained = [arm for study in studies if study in arms.STUDIES for arm in arms.STUDIES[study]()]
        wanted = [arm for arm in trained if re.search(only, arm.name)]
        missing = [arm for arm in arms.needed(wanted) if not self.finished(arm)]
        held = self.composed("heldout", self.settings.heldout_images)
        if missing:
            self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            arrays = self.beside.submit(self.composed, "train", self.settings.train_images)
            self.train(missing, arrays, held)
        failures = [error for each in self.measurements if (error := each.result().exception())]
        if "scales" in studies and not failures:
            work = self.settings.work
            chosen = [path for path in scales.networks(work) if re.search(only, path.stem)]
            list(self.pool.map(scales.measure, [(path, work, held) for path in chosen]))
        for study in studies:
            if study != "scales" or not failures:
                self.assemble(study)
        if failures:
            raise failures[0]

    def composed(self, split: str, count: int) -> dict[str, np.ndarray]:
        folder = self.settings.work / "data" / split
        return data.compose_arrays(split, count, self.settings.size, 0, folder, say, self.pool)

    def finished(self, arm: Arm) -> bool:
        """Whether an arm is trained and measured."""
        work = self.settings.work
        return (work / "arms" / f"{arm.name}.json").exists() and self.checkpoint(arm).exists()

    def checkpoint(self, arm: Arm) -> Path:
        return self.settings.work / "checkpoints" / f"{arm.name}.pt"

    def train(
        self, missing: list[Arm], arrays: Future[dict[str, np.ndarray]], held: dict[str, np.ndarray]
    ) -> None:
        """Float arms beside each other, then those that start from them; steps are captured while images are
        still composed.
        """
        images = Images(self.settings.train_images, self.settings.size, self.device)
        trainers = {arm: self.trainer(arm, images) for arm in missing}
        images.fill(arrays.result())
        say(f"{len(trainers)} networks stand on {machine(self.device)}")
        for phase, starting in enumerate((False, True)):
            now = {
                arm: each for arm, each in trainers.items()
                if (arm.start is not None) == starting and self.begins(arm, trainers)
            }  # fmt: skip
            if now:
                self.train_together(now, phase)
                self.measurements += [
                    self.beside.submit(self.measured, arm, trainer, held) for arm, trainer in now.items()
                ]

    def trainer(self, arm: Arm, images: Images) -> Trainer:
        """An arm's network with random weights, its step captured."""
        torch.manual_seed(arm.seed)
        most = self.settings.iterations[arm.start is not None]
        if (arm.seed, most) not in self.draws:
            sizes = self.settings.train_images, self.settings.batch, most
            self.draws[arm.seed, most] = Draws(*sizes, arm.seed, self.device)
        model = build_model(arm.config(self.settings.size)).to(self.device)
        trainer = Trainer(model, images, self.draws[arm.seed, most], arm.learning_rate)
        if not self.settings.eager:
            trainer.capture()
        return trainer

    def begins(self, arm: Arm, trainers: dict[Arm, Trainer]) -> bool:
        """Gives an arm the weights of the float one that it starts from, and its quantizers, if it has any,
        what its batches say; False where the float one is lost.
        """
        start, trainer = arm.start, trainers[arm]
        if start is None:
            return True
        if start in trainers and not math.isfinite(trainers[start].last_loss()):
            say(f"{arm.name} is left out: the loss of {start.name} is not finite")
            return False
        origin = trainers[start].model if start in trainers else load_checkpoint(self.checkpoint(start))
        model = trainer.model
        model.load_state_dict({**model.state_dict(), **origin.to(self.device).state_dict()})
        if arm.bits is None:
            return True
        numbers = torch.arange(min(CALIBRATION_BATCHES, trainer.most), device=self.device)
        inputs = [batch_of(trainer.images, trainer.draws, each[None])[0] - trainer.mean for each in numbers]
        calibrate(model, inputs)
        return True

    def train_together(self, trainers: dict[Arm, Trainer], phase: int) -> None:
        """All arms by turns, each on its own stream; the iterations of each are the same."""
        iterations = self.settings.iterations[phase]
        seconds = self.seconds_of(phase)
        if seconds is not None:
            iterations = min(iterations, possible(list(trainers.values()), seconds))
            seconds *= OVERTIME
        say(f"{len(trainers)} arms, {iterations} iterations of {self.settings.batch} images each")
        for trainer in trainers.values():
            trainer.begin(iterations)
        began = time.monotonic()
        for first in range(0, iterations, TOGETHER):
            end = min(first + TOGETHER, iterations)
            if any(due(iteration, iterations) for iteration in range(first, end)):
                for trainer in trainers.values():
                    trainer.estimate(self.pool.map)
            for _, trainer in itertools.product(range(first, end), trainers.values()):
                trainer.step()
            losses = [trainer.last_loss() for trainer in trainers.values()]
            passed = time.monotonic() - began
            for trainer in trainers.values():
                trainer.iterations, trainer.seconds = end, passed
            if first % (10 * TOGETHER) == 0 or end == iterations:
                say(f"{end}/{iterations} {passed:.0f} s, loss {' '.join(f'{loss:.2f}' for loss in losses)}")
            if seconds is not None and passed > seconds and end < iterations:
                say("stopped: other work has taken the time")
                break

    def seconds_of(self, phase: int) -> float | None:
        """How long the arms of a phase may be trained."""
        if self.settings.seconds is None:
            return None
        return max(1.0, SHARE[phase] * (self.settings.seconds - (time.monotonic() - self.began)))

    def measure(self, arm: Arm, trainer: Trainer, held: dict[str, np.ndarray]) -> Future:
        """Writes the compact checkpoint; the average precision of that very file is computed beside it."""
        model = trainer.model.eval()
        save_checkpoint(self.checkpoint(arm), model, compact=True)
        compact = load_checkpoint(self.checkpoint(arm)).to(self.device)
        with exact_float32():
            maps = heldout.output_maps(compact, held)
        record = {
            "name": arm.name, "detector": arm.detector, "head_norm": arm.norm, "bits": arm.bits,
            "mode": None if arm.bits is None else arm.mode, "floating": list(arm.floating),
            "quantizer": None if arm.bits is None else arm.quantizer, "seed": arm.seed,
            "start": None if arm.start is None else arm.start.name,
            "iterations": trainer.iterations, "batch": self.settings.batch,
            "learning_rate": arm.learning_rate, "loss": round(trainer.last_loss(), 4),
            "seconds_beside_others": round(trainer.seconds, 1), "machine": machine(self.device),
            "train_images": self.settings.train_images, "heldout_images": self.settings.heldout_images,
            "size": self.settings.size, "command": self.settings.command,
        }  # fmt: skip
        path = self.settings.work / "arms" / f"{arm.name}.json"
        return self.pool.submit(write_precision, path, record, maps, compact.config, held)

    def measured(self, arm: Arm, trainer: Trainer, held: dict[str, np.ndarray]) -> Future:
        """`measure`, whose failure is that of the future."""
        try:
            return self.measure(arm, trainer, held)
        except AqdError as error:
            failed: Future = Future()
            failed.set_exception(error)
            return failed

    def assemble(self, study: str) -> None:
        """`DIR/STUDY.json` of the arms that are there; AqdError where there is none."""
        work = self.settings.work
        names = [path.stem for path in scales.networks(work)]
        if study in arms.STUDIES:
            names = [arm.name for arm in arms.STUDIES[study]()]
        folder = work / ("scales" if study == "scales" else "arms")
        paths = [folder / f"{name}.json" for name in names]
        found = [json.loads(path.read_text()) for path in paths if path.exists()]
        if not found:
            raise AqdError(f"the study {study} has no arm that is measured", received=str(folder))
        document = {"study": study, "arms": found}
        write_text(self.settings.work / f"{study}.json", json.dumps(document, indent=1) + "\n")
        print(self.settings.work / f"{study}.json")


def possible(trainers: list[Trainer], seconds: float) -> int:
    """How many iterations of all arms fit into `seconds`, by some of them; the networks stay as they are."""
    before = [trainer.snapshot() for trainer in trainers]
    rounds = min(RATE_ROUNDS, max(1, trainers[0].most // 2))
    for trainer in trainers:
        trainer.begin(1)
    times = []
    for _ in range(2):
        began = time.monotonic()
        for _ in range(rounds):
            for trainer in trainers:
                trainer.step()
        trainers[0].wait()
        times.append(time.monotonic() - began)
    for trainer, values in zip(trainers, before, strict=True):
        trainer.restore(values)
    say(f"a round of {len(trainers)} arms takes {1e3 * times[-1] / rounds:.1f} ms")
    return max(2, int(seconds * rounds / times[-1]))


class exact_float32:
    """A block in which a card's convolutions are of float32 numbers, not of shorter ones."""

    def __enter__(self) -> None:
        self.before = torch.backends.cudnn.allow_tf32
        torch.backends.cudnn.allow_tf32 = False

    def __exit__(self, *_: object) -> None:
        torch.backends.cudnn.allow_tf32 = self.before


def write_precision(
    path: Path, record: dict[str, Any], maps: dict[str, np.ndarray], config: Any, held: dict[str, np.ndarray]
) -> None:
    """An arm's record with its average precisions, in 0..1."""
    precision = heldout.precision_of(maps, config, held)
    found = {name: None if value != value else round(value, 4) for name, value in precision.items()}
    write_text(path, json.dumps({**record, **found}, indent=1) + "\n")
    print(record["name"], f"AP {100 * precision['AP']:.1f}", flush=True)


def machine(device: torch.device) -> str:
    """The card's name, or the processor's kind; and torch's version."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"
    return f"{name}, torch {torch.__version__}"
