"""The labels of the shipped digits as COCO, VOC and YOLO give a detector the same numbers."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from aqd_deploy.evaluation.accuracy import accuracy
from aqd_deploy.evaluation.datasets import read_dataset
from aqd_deploy.evaluation.datasets.contract import DataSet, ImageFolder

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "digits"
sys.path.insert(0, str(FOLDER))
import labels  # noqa: E402


def detections(dataset: DataSet) -> list[dict]:
    """The labels moved by chance, with scores by chance: the same ones for every format."""
    numbers, found = np.random.default_rng(7), []
    by_image = {path.name: number for path, number in dataset.ids.items()}
    names = {each["id"]: each["name"] for each in dataset.document["categories"]}
    for _, number in sorted(by_image.items()):
        objects = [each for each in dataset.document["annotations"] if each["image_id"] == number]
        for each in sorted(objects, key=lambda each: (names[each["category_id"]], each["bbox"])):
            moved = [round(float(value), 1) for value in each["bbox"] + numbers.normal(0, 1.5, 4)]
            found.append({**each, "bbox": moved, "score": float(numbers.random())})
    return found


def numbers_of(dataset: DataSet) -> dict:
    return accuracy(dataset.document, detections(dataset), dataset.ids.values())


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    labels.main([str(FOLDER / "images" / "annotations.json"), "-o", str(folder)])
    return folder


@pytest.mark.parametrize("name", ["voc", "yolo"])
def test_the_numbers_are_equal(written, name):
    images = ImageFolder.of(FOLDER / "images")
    coco = numbers_of(read_dataset(FOLDER / "images" / "annotations.json", images))
    dataset = read_dataset(written / name, images)
    assert dataset.format == name and len(dataset.ids) == 24
    other = numbers_of(dataset)
    assert 0.2 < coco["AP"] < 0.9 and 0 < coco["APs"] < 1
    # Shares of a side, and sums of them, are rounded to float64: no box here is that near to a threshold.
    assert other == coco


def test_a_crowd(tmp_path):
    box = {"image_id": 5, "category_id": 2, "bbox": [1.5, 2, 3, 4]}
    document = {
        "images": [{"id": 5, "file_name": "a/b.png", "width": 10, "height": 20}],
        "annotations": [{**box, "iscrowd": 1}, {**box, "iscrowd": 0}],
        "categories": [{"id": 2, "name": "cat"}],
    }
    labels.convert(document, tmp_path)
    text = (tmp_path / "voc" / "a" / "b.xml").read_text()
    assert "<difficult>1" in text and "<xmin>2.5<" in text and "<ymax>6<" in text
    assert (tmp_path / "yolo" / "a" / "b.txt").read_text() == "0 0.3 0.2 0.3 0.2\n"
