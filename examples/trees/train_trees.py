"""Trains the tree detectors: a float FCOS-R18 at a quarter of its width that begins with the weights of the
digits network, and a 4-bit one that begins with the float one's.

    python examples/trees/train_trees.py --work DIR

writes `DIR/fcos_r18_trees_float.pt` and `DIR/fcos_r18_trees_4bit.pt`. A killed run continues from its last
checkpoint when started again.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tiles
import torch
from PIL import Image
from torch import Tensor

from aqd_deploy.errors import AqdError
from aqd_deploy.qat.checkpoint import load_checkpoint, save_checkpoint
from aqd_deploy.qat.config import ModelConfig
from aqd_deploy.qat.models import Detector, build_model, quantized_from_float
from aqd_deploy.qat.train import TrainSettings, train

DIGITS = Path(__file__).resolve().parents[1] / "digits" / "checkpoints" / "fcos_r18_digits_float.pt"
BATCH = 8
CALIBRATION_BATCHES = 8
MOST_BOXES = 160
ZOOM = (0.75, 1.33)


@dataclass(frozen=True)
class Run:
    """One of the two networks: bits (None: float), iterations of `BATCH` crops, learning rate, seed."""

    name: str
    bits: int | None
    iterations: int
    learning_rate: float
    seed: int


FLOAT = Run("fcos_r18_trees_float", None, 2000, 2e-3, seed=1)
QUANTIZED = Run("fcos_r18_trees_4bit", 4, 1000, 1e-3, seed=2)


def model_config(run: Run) -> ModelConfig:
    """The digits network's description, with one class and the tiles' size."""
    return load_checkpoint(DIGITS).config.replace(
        bits=run.bits, name=run.name, classes=1, class_names=(tiles.CLASS,), image_height=tiles.TILE,
        image_width=tiles.TILE, max_detections=200,
    )  # fmt: skip


class Crops:
    """Batches of random squares of the photographs: zoomed, mirrored, turned by quarters, lighter or darker.

    A batch depends on seed and iteration alone.
    """

    def __init__(self, photographs: list[tiles.Photograph], seed: int) -> None:
        self.photographs, self.seed = photographs, seed
        areas = np.array([each.pixels.shape[0] * each.pixels.shape[1] for each in photographs], float)
        self.shares = areas / areas.sum()

    def __call__(self, iteration: int, rank: int, world: int) -> tuple[Tensor, Tensor, Tensor]:
        rng = np.random.default_rng([self.seed, iteration])
        images = np.zeros((BATCH, 3, tiles.TILE, tiles.TILE), np.uint8)
        boxes = np.zeros((BATCH, MOST_BOXES, 4), np.float32)
        labels = np.full((BATCH, MOST_BOXES), -1, np.int64)
        for k in range(BATCH):
            pixels, found = self._crop(rng)
            found = found[:MOST_BOXES]
            images[k] = pixels[:, :, ::-1].transpose(2, 0, 1)
            boxes[k, : len(found)], labels[k, : len(found)] = found, 0
        mine = slice(rank, None, world)
        return torch.from_numpy(images[mine]), torch.from_numpy(boxes[mine]), torch.from_numpy(labels[mine])

    def _crop(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        photograph = self.photographs[rng.choice(len(self.photographs), p=self.shares)]
        height, width, _ = photograph.pixels.shape
        side = round(tiles.TILE / np.exp(rng.uniform(*np.log(ZOOM))))
        side = min(side, height, width)
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        square = Image.fromarray(photograph.pixels[top : top + side, left : left + side])
        pixels = np.asarray(square.resize((tiles.TILE, tiles.TILE), Image.Resampling.BILINEAR))
        boxes = tiles.cut(photograph.boxes, left, top, side) * (tiles.TILE / side)
        if rng.random() < 0.5:
            pixels = pixels[:, ::-1]
            boxes = np.stack(
                [tiles.TILE - boxes[:, 2], boxes[:, 1], tiles.TILE - boxes[:, 0], boxes[:, 3]], 1
            )
        for _ in range(rng.integers(4)):
            # A quarter turn counterclockwise: (x, y) goes to (y, side - x).
            pixels = np.rot90(pixels)
            boxes = np.stack(
                [boxes[:, 1], tiles.TILE - boxes[:, 2], boxes[:, 3], tiles.TILE - boxes[:, 0]], 1
            )
        gain, offset = rng.uniform(0.8, 1.2), rng.uniform(-20, 20)
        return np.clip((pixels - 128.0) * gain + 128 + offset, 0, 255).astype(np.uint8), boxes


def start_model(run: Run, origin: Detector, crops: Crops) -> Detector:
    """The network a run begins with. What of `origin` has the same name and shape is taken over: for another
    number of classes all but the last layer of the classes.
    """
    torch.manual_seed(run.seed)
    config = model_config(run)
    if run.bits is not None:
        inputs = [origin.preprocess(crops(index, 0, 1)[0]) for index in range(CALIBRATION_BATCHES)]
        return quantized_from_float(origin, config, inputs)
    model = build_model(config)
    own = model.state_dict()
    known = {
        name: value
        for name, value in origin.state_dict().items()
        if name in own and own[name].shape == value.shape
    }
    model.load_state_dict({**own, **known})
    return model


def train_run(run: Run, origin: Detector, crops: Crops, work: Path, device: str) -> Detector:
    """Trains one run, or continues it, and writes its compact checkpoint; returns it on the CPU."""
    model = start_model(run, origin, crops).to(device)
    settings = TrainSettings(run.iterations, run.learning_rate, seed=run.seed)
    trained = train(model, crops, settings, work / run.name).to("cpu")
    save_checkpoint(work / f"{run.name}.pt", trained, compact=True)
    return trained


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Train the tree detectors.")
    parser.add_argument("--work", type=Path, required=True, help="folder for run state and checkpoints")
    parser.add_argument("--photographs", type=Path, help="folder of the photographs (default: the package's)")
    parser.add_argument("--device", default="cpu", help="torch device (default: cpu)")
    options = parser.parse_args(arguments)
    try:
        folder = options.photographs or tiles.package_folder()
        origin = load_checkpoint(DIGITS)
        for run in (FLOAT, QUANTIZED):
            crops = Crops(tiles.photographs("train", folder), run.seed)
            origin = train_run(run, origin, crops, options.work, options.device)
            print(options.work / f"{run.name}.pt", flush=True)
    except (AqdError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
