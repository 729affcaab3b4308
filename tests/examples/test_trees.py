"""The example of trees, on photographs that the test paints: tiles and crops keep boxes around what they
label.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aqd_deploy.detection.images import load_image
from aqd_deploy.errors import AqdError
from aqd_deploy.evaluation.coco import load_annotations

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "trees"
RED = np.array([255, 0, 0], np.uint8)


@pytest.fixture(scope="module")
def example():
    sys.path.insert(0, str(FOLDER))
    import tiles

    return tiles


def paint(folder: Path, name: str, height: int, width: int, boxes: list[tuple[int, int, int, int]]) -> None:
    """A black photograph with red trees, and its labels as Pascal VOC counts them."""
    pixels = np.zeros((height, width, 3), np.uint8)
    objects = ""
    for x1, y1, x2, y2 in boxes:
        pixels[y1:y2, x1:x2] = RED
        corners = {"xmin": x1 + 1, "ymin": y1 + 1, "xmax": x2, "ymax": y2}
        inner = "".join(f"<{key}>{value}</{key}>" for key, value in corners.items())
        objects += f"<object><name>Tree</name><bndbox>{inner}</bndbox></object>"
    Image.fromarray(pixels).save(folder / f"{name}.png")
    (folder / f"{name}.xml").write_text(f"<annotation>{objects}</annotation>")


@pytest.fixture
def photographs(example, tmp_path):
    boxes = [(100, 60, 140, 110), (300, 280, 360, 330), (620, 400, 650, 440)]
    for names in example.SPLITS.values():
        for name in names:
            paint(tmp_path, name, 500, 700, boxes)
    return tmp_path


def red(pixels: np.ndarray, box: np.ndarray) -> np.ndarray:
    x1, y1, x2, y2 = np.round(box).astype(int)
    return (pixels[y1:y2, x1:x2] == RED).all(axis=2)


def test_tiles_cover_the_photograph_and_boxes_lie_around_the_trees(example, photographs):
    annotations = load_annotations(example.write_tiles("heldout", photographs, photographs / "out"))
    assert len(annotations["images"]) == 6  # 2 rows of 3
    by_image = {each["id"]: each["file_name"] for each in annotations["images"]}
    area = dict.fromkeys(by_image, 0)
    for record in annotations["annotations"]:
        x, y, width, height = record["bbox"]
        pixels = load_image(photographs / "out" / by_image[record["image_id"]])
        assert pixels.shape == (example.TILE, example.TILE, 3)
        assert red(pixels, np.array([x, y, x + width, y + height])).all()
        area[record["image_id"]] += record["area"]
    for number, file in by_image.items():
        painted = (load_image(photographs / "out" / file) == RED).all(axis=2).sum()
        # A tree of which less than 40 % can be seen has no box.
        assert area[number] <= painted <= area[number] + 0.4 * 60 * 50


def test_a_tree_hardly_seen_has_no_box(example):
    boxes = np.array([[0, 0, 10, 10], [-8, 0, 2, 10], [-5, 0, 5, 10], [400, 0, 410, 10]], np.float32)
    assert example.cut(boxes, 0, 0, 320).tolist() == [[0, 0, 10, 10], [0, 0, 5, 10]]


def test_crops_keep_boxes_around_the_trees(example, photographs):
    torch = pytest.importorskip("torch")
    import train_trees

    crops = train_trees.Crops(example.photographs("train", photographs), seed=3)
    images, boxes, labels = crops(5, 0, 1)
    assert (images.dtype, boxes.shape[2], set(labels.unique().tolist())) == (torch.uint8, 4, {-1, 0})
    again = crops(5, 0, 1)
    assert all(torch.equal(a, b) for a, b in zip((images, boxes, labels), again, strict=True))
    found = 0
    for image, own, used in zip(images.numpy(), boxes.numpy(), labels.numpy() >= 0, strict=True):
        bright = image[2].astype(int) - image[0] > 60  # BGR
        for x1, y1, x2, y2 in np.round(own[used]).astype(int):
            inside = bright[y1:y2, x1:x2]
            assert inside.mean() > 0.9  # a pixel of the edge is half of each
            found += 1
    assert found > 4


def test_a_package_without_a_photograph(example, tmp_path):
    with pytest.raises(AqdError, match="lacks a photograph or its labels"):
        example.photographs("heldout", tmp_path)


def test_what_is_the_same_as_in_the_digits_network_is_taken_over(example, photographs):
    pytest.importorskip("torch")
    import train_trees

    from aqd_deploy.qat.checkpoint import load_checkpoint

    origin = load_checkpoint(train_trees.DIGITS)
    crops = train_trees.Crops(example.photographs("train", photographs), seed=1)
    model = train_trees.start_model(train_trees.FLOAT, origin, crops)
    own, given = model.state_dict(), origin.state_dict()
    other = [name for name in own if own[name].shape != given[name].shape]
    assert other and all(name.startswith("head.cls_score") for name in other)
    assert all((own[name] == given[name]).all() for name in set(own) - set(other))


def test_annotations_are_those_of_coco(example, photographs, tmp_path):
    path = example.write_tiles("train", photographs, tmp_path / "train")
    document = json.loads(path.read_text())
    assert [each["name"] for each in document["categories"]] == ["tree"]
    assert len(document["images"]) == 18
    assert {each["category_id"] for each in document["annotations"]} == {1}
