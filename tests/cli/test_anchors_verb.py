"""`aqd-deploy anchors`: what it prints, and its bad input."""

from __future__ import annotations

import json

import pytest

from aqd_deploy.cli.main import invoke


@pytest.fixture
def annotations(tmp_path):
    """Two kinds of boxes in images of 832 x 416."""
    boxes = [(64, 128), (320, 192)] * 3
    document = {
        "images": [{"id": 1, "file_name": "a.png", "width": 832, "height": 416}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [
            {"id": index, "image_id": 1, "category_id": 1, "bbox": [0, 0, *sides]}
            for index, sides in enumerate(boxes, start=1)
        ],
    }
    path = tmp_path / "a.json"
    path.write_text(json.dumps(document))
    return path


def test_anchors_in_pixels_and_cells(annotations, capsys):
    assert invoke(["anchors", "--annotations", str(annotations), "-k", "2", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == {
        "image_size": [416, 416], "stride": 32, "boxes": 6, "mean_iou": pytest.approx(1),
        "anchors": [
            {"pixels": [32, 64], "cells": [1, 2], "boxes": 3},
            {"pixels": [160, 96], "cells": [5, 3], "boxes": 3},
        ],
    }  # fmt: skip


def test_for_people(annotations, capsys):
    words = ["anchors", "--annotations", str(annotations), "-k", "2", "--image-size", "416x832"]
    assert invoke([*words, "--stride", "16"]) == 0
    out = capsys.readouterr().out
    assert ["320.00", "192.00", "20.00", "12.00", "3"] in [line.split() for line in out.splitlines()]
    assert "6 boxes in images of 416x832; mean IoU 1.0000" in out
    assert max(map(len, out.splitlines())) <= 80


def test_bad_input(annotations, fails, tmp_path):
    assert "fewer different boxes" in fails("anchors", "--annotations", annotations)
    assert "annotations" in fails("anchors", "--annotations", tmp_path / "none.json")
    document = json.loads(annotations.read_text())
    del document["images"][0]["height"]
    annotations.write_text(json.dumps(document))
    assert "images[0].height" in fails("anchors", "--annotations", annotations, "-k", "2")
