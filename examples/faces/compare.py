"""How far what a program detects is what the float network detects: AP against the float network's faces.

`python examples/faces/compare.py faces --found faces/found` after `aqd-deploy detect … -o faces/found`: the
faces of the float network (scores from 0.5 on) are taken as the truth.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnxruntime

from aqd_deploy.detection.images import letterbox, load_image
from aqd_deploy.detection.nms import class_wise_nms
from aqd_deploy.evaluation.coco import evaluate

FACE = 0.5
MOST = 100
SHOWN = ("AP50", "AP75", "AP")


def float_faces(folder: Path, image: Path) -> tuple[np.ndarray, tuple[int, int]]:
    """Boxes [n, 4] (x1, y1, x2, y2) in pixels of the photograph; its width and height."""
    described = tomllib.loads((folder / "faces.toml").read_text())
    prepared = described["preprocessing"]
    photograph = load_image(image)
    session = onnxruntime.InferenceSession(folder / "float.onnx", providers=["CPUExecutionProvider"])
    (only,) = session.get_inputs()
    placed, placement = letterbox(photograph, *only.shape[2:], tuple(prepared["pad_value"]))
    pixels = (placed - np.float32(prepared["mean"])) / np.float32(prepared["std"])
    boxes, scores = session.run(None, {only.name: pixels.transpose(2, 0, 1)[None].astype(np.float32)})
    boxes, scores = (np.asarray(each[scores >= FACE], np.float64) for each in (boxes, scores))
    kept = class_wise_nms(boxes, scores, np.zeros(len(boxes), int), described["detector"]["nms_iou"], MOST)
    faces = placement.to_image(boxes)[kept]
    return faces[(faces[:, 2:] > faces[:, :2]).all(axis=1)], photograph.shape[1::-1]


def truth(folder: Path, files: dict[int, Path]) -> dict[str, Any]:
    """The float network's faces as COCO annotations of images by id."""
    images, annotations = [], []
    for number, path in files.items():
        boxes, (width, height) = float_faces(folder, path)
        images.append({"id": number, "file_name": path.name, "width": width, "height": height})
        for x1, y1, x2, y2 in boxes.tolist():
            annotations.append({
                "id": len(annotations) + 1, "image_id": number, "category_id": 0, "iscrowd": 0,
                "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1),
            })  # fmt: skip
    return {"images": images, "annotations": annotations, "categories": [{"id": 0, "name": "face"}]}


def compare(folder: Path, found: Path) -> dict[str, float]:
    """`faces` of the float network, and AP50, AP75 and AP (IoU 0.5 to 0.95) of what lies in `found`."""
    listed = json.loads((found / "images.json").read_text())
    files = {each["id"]: folder / "images" / Path(each["file_name"]).name for each in listed["images"]}
    annotations = truth(folder, files)
    precision = evaluate(annotations, json.loads((found / "results.json").read_text()))
    return {
        "faces": len(annotations["annotations"]),
        **{key: precision[key] for key in ("AP50", "AP75", "AP")},
    }


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--found", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
def main(folder: Path, found: Path) -> None:
    """Compare the detections in --found with those of FOLDER/float.onnx."""
    result = compare(folder, found)
    values = ", ".join(f"{key} {result[key]:.3f}" for key in SHOWN)
    click.echo(f"{result['faces']:.0f} faces of the float network: {values}")


if __name__ == "__main__":
    main()
