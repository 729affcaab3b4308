"""Damaged tables: profiles, descriptions of detectors, tuning records, annotations, reports."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import onnx
from mutations import damage_document, damage_json, json_text
from report_documents import full_report
from subject import TUNED_TARGET, Subject

PROFILE = """description = "a board"
architecture = "aarch64"
triple = "aarch64-linux-gnu"
cpu = "cortex-a72"
features = ["asimd"]
aliases = ["myboard"]
extends = "aarch64"
cores = 4
clock_ghz = 1.5
l1d_kib = 32
[sources]
cores = "data sheet"
"""

DESCRIPTION = """[preprocessing]
color = "RGB"
pad_value = [1, 2, 3]
input = "image"
height = 8
[detector]
kind = "fcos"
classes = ["a", "b"]
strides = [1]
outputs = { cls = ["cls_p3"], box = ["box_p3"], ctr = ["ctr_p3"] }
category_ids = [3, 9]
score_threshold = 0.1
max_detections = 4
"""

VOC = """<annotation><size><width>8</width><height>8</height></size>
<object><name>cat</name><difficult>0</difficult>
<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>4</ymax></bndbox></object>
</annotation>
"""


def tables(ready: dict[str, bytes]) -> list[Subject]:
    records = _records(ready["sound.onnx"])
    compile_tuned = ("compile", "{sound.onnx}", "-o", "{out.so}", "--target", TUNED_TARGET, "--threads", "1",
                     "--tuned", "{records}")  # fmt: skip
    tune = ("tune", "{sound.onnx}", "--dry-run", "--target", TUNED_TARGET, "--records", "{records}")
    model = {"sound.onnx": ready["sound.onnx"]}
    image = {"images/a.png": ready["sound.png"]}
    detect = (
        "detect",
        "{sound.onnx}",
        "{sound.png}",
        "-o",
        "{out}",
        "--threads",
        "1",
        "--detector",
        "{d.toml}",
    )
    return [
        Subject("description", "d.toml", DESCRIPTION.encode(), _toml, (detect,),
                {name: ready[name] for name in ("sound.onnx", "sound.png")}),
        Subject("profile", "targets/board.toml", PROFILE.encode(), _toml,
                (("targets", "list"), ("targets", "show", "board"), ("targets", "show", "board", "--json"),
                 ("doctor", "--target", "host")), weight=2),
        Subject("records", "records/records.jsonl", records, _json_lines, (compile_tuned, tune), model, 2),
        Subject("annotations", "annotations.json", json.dumps(_annotations()).encode(), damage_json,
                (_evaluate,), weight=2),
        Subject("labels of VOC", "xml/a.xml", VOC.encode(), _words, (_read_labels,), image),
        Subject("labels of YOLO", "txt/a.txt", b"0 0.5 0.5 0.25 0.5\n1 0.1 0.1 0.9 0.1 0.5 0.75\n", _words,
                (_read_labels,), {**image, "txt/classes.txt": b"cat\ndog\n"}),
        Subject("report", "report.json", _report(), damage_json, (_read_report,)),
    ]  # fmt: skip


def _toml(data: bytes, rng: random.Random) -> bytes:
    lines = data.decode().splitlines()
    at = rng.randrange(len(lines))
    key = lines[at].partition("=")[0].strip()
    values = ("1", "-1", "0", "1e400", "nan", "inf", '""', '"x"', "[]", "{}", "[[]]", "true", "1979-05-27",
              "9" * 5000, "[" * 5000, '["+a", 1]', '"board"', '"""', "0x7fffffffffffffffffff", '"\\u0000"',
              '"e-\\u0301"', '["myboard", "myboard"]', '["host"]')  # fmt: skip
    match rng.randrange(4):
        case 0:
            del lines[at]
        case 1:
            lines.insert(at, lines[rng.randrange(len(lines))])
        case _:
            lines[at] = f"{key} = {rng.choice(values)}"
    return "\n".join(lines).encode()


def _records(model: bytes) -> bytes:
    """Records as tuning writes them, one a convolution of `model`, so that damaged ones are used."""
    from aqd_deploy import targets
    from aqd_deploy.compiler.planning import plan_model
    from aqd_deploy.records.file import Header
    from aqd_deploy.tuning.tune import task_states

    device = targets.get(TUNED_TARGET)
    lines: list[dict[str, Any]] = [Header.here(device).to_json()]
    for state in task_states(plan_model(onnx.ModelProto.FromString(model)), device, 1):
        task = state.use.task
        lines.append({"task": task.key, "shape": task.shape_key, "definition": {}})
        lines.append({"task": task.key, "choice": state.best.to_json(), "state": "accepted", "seconds": 1e-3,
                      "best_seconds": 2e-3, "reason": ""})  # fmt: skip
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def _json_lines(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    at = rng.randrange(len(lines))
    text = json_text(damage_document(json.loads(lines[at]), rng), rng)
    lines[at] = text.encode(errors="surrogateescape") + b"\n"
    return b"".join(lines)


def _words(data: bytes, rng: random.Random) -> bytes:
    """A word, tag or number becomes another one, goes, or is there twice."""
    parts = re.split(r"(\s+|[<>/.])", data.decode())
    at = rng.randrange(len(parts))
    values = ("", "-1", "0", "1e400", "nan", "inf", "x", "9" * 5000, "\0", "\u2028", "<", "&e;", "<!DOCTYPE>",
              "<object>", "</bndbox>", "\n", "e\u0301", parts[at] * 2, rng.choice(parts))  # fmt: skip
    parts[at] = rng.choice(values)
    return "".join(parts).encode()


def _read_labels(folder: Path) -> None:
    from aqd_deploy.evaluation.accuracy import accuracy, match_classes
    from aqd_deploy.evaluation.datasets import read_dataset
    from aqd_deploy.evaluation.datasets.contract import ImageFolder

    labels = next(folder / name for name in ("xml", "txt") if (folder / name).exists())
    dataset = read_dataset(labels, ImageFolder.of(folder / "images"))
    document, ids = match_classes(dataset, ["cat", "dog"])
    for image in dataset.ids.values():
        found = [{"image_id": image, "category_id": ids[0], "bbox": [1, 2, 9, 8], "score": 0.5}]
        accuracy(document, found, dataset.ids.values())


def _annotations() -> dict[str, Any]:
    return {
        "images": [{"id": 1, "file_name": "a.png", "width": 24, "height": 20}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 10, 8], "area": 80,
        "iscrowd": 0}],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    }  # fmt: skip


def _evaluate(folder: Path) -> None:
    from aqd_deploy.detection.dataset import category_ids
    from aqd_deploy.evaluation.coco import evaluate, load_annotations

    found = [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 9, 8], "score": 0.5}]
    category_ids(["a", "b"], load_annotations(folder / "annotations.json"))
    evaluate(folder / "annotations.json", found)


def _report() -> bytes:
    return json.dumps(full_report(layers=1, pictures=1, classes=1)).encode()


def _read_report(folder: Path) -> None:
    from aqd_deploy.reporting.document import read_report
    from aqd_deploy.reporting.page.html import html_page
    from aqd_deploy.reporting.page.markdown import markdown_page
    from aqd_deploy.reporting.page.report_page import report_page
    from aqd_deploy.reporting.report import terminal_table
    from aqd_deploy.reporting.run_comparison import compare_runs

    document = read_report(folder / "report.json")
    page = report_page(document, folder)
    html_page(page), markdown_page(page), terminal_table(document)
    compare_runs({"one": document, "other": document})
