"""The files that are damaged: one small sound example of every kind, how it is damaged with its form kept,
and what reads it.

A subject's reader is a command line in which `{name}` stands for files of the case's folder, or a function of
the library for the readers that no verb calls on their own.
"""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
from array_files import array_files, arrays, image, images
from checkpoint_files import checkpoints
from model_files import models
from program_files import programs
from subject import SIDE, TARGET, Subject
from table_files import tables

sys.path.insert(0, str(Path(__file__).parents[1]))
from qdq_graphs import QdqBuilder

MANIFEST = {
    "schema": 1,
    "name": "tiny",
    "bits": {"weights": 4, "activations": 4, "first_last": 8},
    "preprocessing": {
        "input": "image", "height": SIDE, "width": SIDE, "color": "BGR", "resize": "letterbox",
        "pad_value": [104, 116, 124], "mean": [104, 116, 124], "std": [1, 1, 1],
    },
    "detector": {
        "kind": "fcos", "classes": ["a", "b"], "strides": [1],
        "outputs": {"cls": ["cls_p3"], "box": ["box_p3"], "ctr": ["ctr_p3"]}, "anchors": None,
        "score_threshold": 0.05, "nms_iou": 0.6, "max_detections": 20, "pre_nms": 100,
    },
}  # fmt: skip


def detector() -> onnx.ModelProto:
    """A QDQ detector of one level, with what a real one has: padded stem, skip-add, pooling, shared heads."""
    b = QdqBuilder(3, SIDE, SIDE)
    x = b.relu(b.batch_norm(b.conv(b.image(), 4, 8)))
    y = b.relu(b.batch_norm(b.conv(b.quantize(x, 4), 4, 4)))
    y = b.batch_norm(b.conv(b.quantize(y, 4), 4, 4, bias=True, per_channel=True))
    x = b.relu(b.add(y, x))
    x = b.concat(x, b.upsample(b.max_pool(x)))
    x = b.quantize(x, 8)
    b.output(b.conv(x, 2, 8, bias=True), "cls_p3")
    b.output(b.relu(b.scale(b.conv(x, 4, 8, kernel=1, bias=True), 1.5)), "box_p3")
    b.output(b.conv(x, 1, 8), "ctr_p3")
    return b.build(MANIFEST)


def make_subjects(folder: Path) -> list[Subject]:
    """All of them; `folder` takes what has to be written to be made."""
    from aqd_deploy.compiler import compile_model
    from aqd_deploy.passes.pipeline import lower

    qdq = detector()
    integer = lower(qdq).model
    program = folder / "sound.so"
    compile_model(integer, program, target=TARGET, threads=1)
    ready = {
        "sound.onnx": integer.SerializeToString(), "sound.so": program.read_bytes(), "sound.npz": arrays(),
        "sound.png": image("PNG"),
    }  # fmt: skip
    return [
        *models(qdq, integer, ready),
        *checkpoints(folder),
        *array_files(ready),
        *images(ready),
        *programs(ready),
        *tables(ready),
    ]
