"""A data set and a network of which the boxes are known: it reads them in the pixels of the first row."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from aqd_deploy.workflow.evaluation.job import evaluate_stages
from aqd_deploy.workflow.evaluation.stages import Stage
from aqd_deploy.workflow.runners import Runner

SIDE, CLASSES = 16, ("cat", "dog")


def manifest_of(classes=CLASSES, name="pixels"):
    outputs = {"boxes": ["boxes"], "scores": ["scores"], "labels": ["labels"]}
    size = {"height": SIDE, "width": SIDE}
    return {
        "name": name,
        "preprocessing": {"input": "image", **size, "color": "RGB", "pad_value": [0, 0, 0]},
        "detector": {
            "kind": "boxes", "classes": list(classes), "outputs": outputs, "score_threshold": 0.01,
            "nms_iou": 1.0, "max_detections": 100, "pre_nms": 100,
        },
    }  # fmt: skip


@dataclass
class PixelNetwork:
    """A pixel that is not black is a box of 4 x 4: red is its class and 1, green its score in 255ths, blue
    its left edge. `missed` is a class that is not seen. Stops after `left` images, as if killed.
    """

    missed: int | None = None
    left: int = 1000
    ran: int = 0

    def run(self, inputs):
        if self.ran == self.left:
            raise KeyboardInterrupt
        self.ran += 1
        pixels = inputs["image"][0, :, 0].T.astype(np.float32)
        seen = pixels[(pixels[:, 0] > 0) & (pixels[:, 0] != (self.missed or -1) + 1)]
        x, y = seen[:, 2], np.full(len(seen), 4, np.float32)
        return {
            "boxes": np.stack([x, y, x + 4, y + 4], 1), "scores": seen[:, 1] / 255,
            "labels": (seen[:, 0] - 1).astype(np.int64),
        }  # fmt: skip


@dataclass
class Setup:
    """A folder with images `cam<k>/i.png` and their labels, and stages as files, each with its network."""

    folder: Path
    networks: dict[str, PixelNetwork] = field(default_factory=dict)
    manifests: dict[str, dict] = field(default_factory=dict)

    @property
    def images(self) -> Path:
        return self.folder / "images"

    @property
    def labels(self) -> Path:
        return self.folder / "annotations.json"

    def stage(self, name: str, content: str = "weights", **network: object) -> Stage:
        path = self.folder / f"{name}.net"
        path.write_text(content)
        self.networks[path.name] = PixelNetwork(**network)
        self.manifests.setdefault(path.name, manifest_of())
        return Stage(name, path)

    def open(self, path: Path, threads=None, device="local") -> Runner:
        outputs = {"boxes": ("N", 4), "scores": ("N",), "labels": ("N",)}
        inputs = {"image": ((1, 3, SIDE, SIDE), "uint8")}
        return Runner(self.manifests[path.name], self.networks[path.name], inputs, outputs, path)

    def evaluate(self, *stages: Stage, **options: object):
        return evaluate_stages(stages, self.labels, self.images, self.folder / "run", **options)


def write_dataset(folder: Path, count: int = 6) -> None:
    """Images of one name in folders of their own: a cat in each, a dog in every other."""
    images, records = [], []
    for index in range(count):
        pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
        objects = [(1, 2), (2, 8)][: 1 + index % 2]
        for x, (red, left) in enumerate(objects):
            pixels[0, x] = (red, 200 - index, left)
            records.append({
                "id": len(records) + 1, "image_id": 7 * index, "category_id": 10 * red,
                "bbox": [left, 4, 4, 4],
            })  # fmt: skip
        path = folder / "images" / f"cam{index}" / "i.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(pixels).save(path)
        entry = {"id": 7 * index, "file_name": f"cam{index}/i.png", "width": SIDE, "height": SIDE}
        images.append(entry)
    categories = [{"id": 10, "name": "cat"}, {"id": 20, "name": "dog"}]
    document = {"images": images, "annotations": records, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(document))
