"""Trains the digits detectors that this example ships.

    python examples/digits/train.py --work DIR [--only NAME ...]

Each model of `PLAN` starts from the one it names, is trained with its own seed, evaluated on the held-out
images and written as a compact checkpoint to `DIR/checkpoints`. A killed run continues from its last
checkpoint when started again. With `torchrun --nproc-per-node N` the batch is divided over N processes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import data
import heldout
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from aqd_deploy.detection.detectors import DETECTORS
from aqd_deploy.errors import AqdError, CheckpointError
from aqd_deploy.qat.checkpoint import load_checkpoint, save_checkpoint
from aqd_deploy.qat.config import ModelConfig
from aqd_deploy.qat.models import Detector, build_model, quantized_from_float
from aqd_deploy.qat.train import TrainSettings, train

SHIPPED = Path(__file__).resolve().parent / "checkpoints"
SIZE = 160
TRAIN_IMAGES, HELDOUT_IMAGES = 16000, 400
BATCH = 16
CALIBRATION_IMAGES = 128


@dataclass(frozen=True)
class Run:
    """One trained model: `start` is the run whose weights it begins with (None: random)."""

    name: str
    detector: str
    bits: int | None
    start: str | None
    iterations: int
    learning_rate: float
    seed: int


PLAN = (
    Run("fcos_r18_digits_float", "fcos", None, None, 4000, 2e-3, seed=1),
    Run("fcos_r18_digits_4bit", "fcos", 4, "fcos_r18_digits_float", 1800, 1e-3, seed=2),
    Run("fcos_r18_digits_2bit", "fcos", 2, "fcos_r18_digits_float", 2000, 1.5e-3, seed=3),
    Run("retinanet_r18_digits_float", "retinanet", None, None, 3000, 2e-3, seed=4),
    Run("retinanet_r18_digits_4bit", "retinanet", 4, "retinanet_r18_digits_float", 1800, 1e-3, seed=5),
)


def model_config(run: Run) -> ModelConfig:
    """The description of a run's network."""
    return ModelConfig(
        detector=run.detector,
        backbone="resnet18",
        width=0.25,
        fpn_channels=64,
        head_depth=2,
        classes=10,
        bits=run.bits,
        image_height=SIZE,
        image_width=SIZE,
        anchor_base=2.5,
        nms_iou=DETECTORS[run.detector].nms_iou,
        name=run.name,
        class_names=tuple(str(digit) for digit in range(10)),
    )


class DigitBatches:
    """Batches of the training images, shuffled each epoch, with cheap augmentation (colours, shifts).

    Digits are not mirrored: a mirrored digit is none.
    """

    def __init__(self, arrays: dict[str, np.ndarray], batch: int, seed: int) -> None:
        self.arrays, self.batch, self.seed = arrays, batch, seed
        self.count = len(arrays["labels"])

    def __call__(self, iteration: int, rank: int, world: int) -> tuple[Tensor, Tensor, Tensor]:
        rng = np.random.default_rng([self.seed, iteration])
        chosen = self._indices(iteration)[rank::world]
        images = np.stack([self.arrays["images"][i] for i in chosen])
        boxes = self.arrays["boxes"][chosen].copy()
        labels = self.arrays["labels"][chosen].copy()
        for k in range(len(images)):
            images[k] = _augment_colour(images[k], rng)
            _shift(images[k], boxes[k], labels[k], rng)
        return torch.from_numpy(images), torch.from_numpy(boxes), torch.from_numpy(labels)

    def _indices(self, iteration: int) -> np.ndarray:
        per_epoch = self.count // self.batch
        epoch, position = divmod(iteration, per_epoch)
        order = np.random.default_rng([self.seed, 1_000_000 + epoch]).permutation(self.count)
        return order[position * self.batch : (position + 1) * self.batch]


def _augment_colour(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast, a permutation of the channels, now and then a negative; uint8 [3, H, W]."""
    if rng.random() < 0.5:
        image = image[rng.permutation(3)]
    if rng.random() < 0.25:
        image = 255 - image
    gain, offset = rng.uniform(0.75, 1.25), rng.uniform(-25, 25)
    table = np.clip((np.arange(256) - 128) * gain + 128 + offset, 0, 255).astype(np.uint8)
    return table[image]


def _shift(image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> None:
    """Moves image and boxes by up to 8 pixels where no digit leaves the image; in place.

    The uncovered rim wraps around; a digit cut by the wrap does not occur because shifts that cut one are
    skipped.
    """
    dx, dy = (int(v) for v in rng.integers(-8, 9, size=2))
    used = labels >= 0
    moved = boxes[used] + np.array([dx, dy, dx, dy], np.float32)
    if len(moved) and (moved.min() < 0 or moved.max() > image.shape[-1]):
        return
    image[:] = np.roll(image, (dy, dx), axis=(1, 2))
    boxes[used] = moved


def say(text: str) -> None:
    """A line for the person who waits, from one process."""
    if not dist.is_initialized() or dist.get_rank() == 0:
        print(text, file=sys.stderr, flush=True)


def composed(split: str, count: int, work: Path) -> dict[str, np.ndarray]:
    """The arrays of a split, composed by one process where `work` does not have them."""
    if dist.is_initialized() and dist.get_rank() > 0:
        dist.barrier()
    arrays = data.compose_arrays(split, count, SIZE, 0, work / "data" / split, say)
    if dist.is_initialized() and dist.get_rank() == 0:
        dist.barrier()
    return arrays


def origin_of(run: Run, work: Path) -> Detector | None:
    """The trained network that a run begins with; CheckpointError, with the command that trains it, where it
    is missing."""
    if run.start is None:
        return None
    path = work / run.start / "full.pt"
    if not path.exists():
        raise CheckpointError(
            f"{run.name} starts from {run.start}, which is not trained yet", received=f"no file {path}",
            next_command=f"python examples/digits/train.py --work {work} --only {run.start} {run.name}",
        )  # fmt: skip
    return load_checkpoint(path)


def start_model(run: Run, origin: Detector | None, batches: DigitBatches) -> Detector:
    """The network a run begins with: random, or the weights of `origin`."""
    torch.manual_seed(run.seed)
    config = model_config(run)
    if origin is None:
        return build_model(config)
    say(f"{run.name}: calibrating the quantizers on {CALIBRATION_IMAGES} images")
    inputs = [origin.preprocess(batches(i, 0, 1)[0]) for i in range(CALIBRATION_IMAGES // batches.batch)]
    return quantized_from_float(origin, config, inputs)


def train_run(run: Run, work: Path) -> None:
    """Trains one run, or continues it, and writes its full checkpoint; does nothing where that is there."""
    finished = work / run.name / "full.pt"
    if finished.exists() and load_checkpoint(finished).config == model_config(run):
        say(f"{run.name}: trained already ({finished})")
        return
    origin = origin_of(run, work)
    arrays = composed("train", TRAIN_IMAGES, work)
    batches = DigitBatches(arrays, BATCH, run.seed)
    settings = TrainSettings(run.iterations, run.learning_rate, seed=run.seed)
    model = start_model(run, origin, batches)
    say(f"{run.name}: training, {run.iterations} iterations of {BATCH} images")
    train(model, batches, settings, work / run.name)
    if not dist.is_initialized() or dist.get_rank() == 0:
        save_checkpoint(finished, model)


def publish(run: Run, work: Path) -> dict[str, float]:
    """Writes the compact checkpoint of a trained run, measures that very file on the held-out images and
    records both; returns the AP by name."""
    arrays = data.compose_arrays("heldout", HELDOUT_IMAGES, SIZE, 0, work / "data" / "heldout", say)
    record = {
        "command": f"python examples/digits/train.py --work DIR --only {run.name}",
        "seed": run.seed,
        "start": run.start,
        "iterations": run.iterations,
        "batch": BATCH,
        "learning_rate": run.learning_rate,
        "train_images": TRAIN_IMAGES,
    }
    path = work / "checkpoints" / f"{run.name}.pt"
    path.parent.mkdir(exist_ok=True)
    model = load_checkpoint(work / run.name / "full.pt")
    save_checkpoint(path, model, compact=True, record=json.dumps(record))
    say(f"{run.name}: measuring {path} on {HELDOUT_IMAGES} images")
    precision = heldout.average_precision(load_checkpoint(path), arrays)
    record |= {"heldout_images": HELDOUT_IMAGES, **{key: round(ap, 4) for key, ap in precision.items()}}
    save_checkpoint(path, model, compact=True, record=json.dumps(record))
    return precision


def main(arguments: list[str] | None = None) -> int:
    names = [run.name for run in PLAN]
    parser = argparse.ArgumentParser(description="Train the digits detectors.")
    parser.add_argument("--work", type=Path, required=True, help="folder for images, run state, checkpoints")
    parser.add_argument(
        "--only", nargs="+", choices=names, default=names, metavar="NAME",
        help=f"runs to train, in the order of the plan (default: all): {', '.join(names)}",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    if options.threads < 1:
        parser.error(f"--threads has to be at least 1, got {options.threads}")
    torch.set_num_threads(options.threads)
    if (options.work / "checkpoints").resolve() == SHIPPED:
        parser.error(f"--work {options.work} would overwrite the shipped {SHIPPED}: name another folder")
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    try:
        for run in PLAN:
            if run.name in options.only:
                train_and_publish(run, options.work)
    except (AqdError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def train_and_publish(run: Run, work: Path) -> None:
    """Trains a run and prints the AP of the checkpoint it gives."""
    train_run(run, work)
    if dist.is_initialized():
        dist.barrier()
    if not dist.is_initialized() or dist.get_rank() == 0:
        values = " ".join(f"{key} {ap:.4f}" for key, ap in publish(run, work).items())
        print(run.name, values, flush=True)


if __name__ == "__main__":
    sys.exit(main())
