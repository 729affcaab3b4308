"""Labels of each format become the same COCO document; what is damaged is told with file and line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from aqd_deploy.errors import AqdError, ImageError
from aqd_deploy.evaluation.datasets import read_dataset
from aqd_deploy.evaluation.datasets.contract import ImageFolder

WIDTH, HEIGHT = 40, 20
# By the image's path without ending: class, and left, top, width and height in pixels.
OBJECTS = {
    "a": [("dog", (0.0, 0.0, 10.0, 5.0)), ("cat", (20.0, 10.0, 20.0, 10.0))],
    "cam/a": [("cat", (4.0, 2.0, 8.0, 4.0))],
    "cam/b": [],
}
NAMES = ("cat", "dog")


@pytest.fixture
def images(tmp_path):
    for stem in OBJECTS:
        path = tmp_path / "images" / f"{stem}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(path)
    return ImageFolder.of(tmp_path / "images")


def write_coco(folder):
    images = [{"id": 10 * k, "file_name": f"{stem}.png"} for k, stem in enumerate(OBJECTS, start=1)]
    records = [
        {"id": 100 * image["id"] + k, "image_id": image["id"], "category_id": 7 + NAMES.index(name),
         "bbox": list(box)}
        for image, objects in zip(images, OBJECTS.values(), strict=True)
        for k, (name, box) in enumerate(objects)
    ]  # fmt: skip
    categories = [{"id": 7, "name": "cat"}, {"id": 8, "name": "dog"}]
    path = folder / "annotations.json"
    path.write_text(json.dumps({"images": images, "annotations": records, "categories": categories}))
    return path


def voc(objects, difficult=()):
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
    parts = [f"<annotation><filename>old.jpg</filename>\n{size}"]
    for index, (name, (x, y, w, h)) in enumerate(objects):
        corners = {"xmin": x + 1, "ymin": y + 1, "xmax": x + w, "ymax": y + h}
        box = "".join(f"<{key}>{value:g}</{key}>" for key, value in corners.items())
        parts.append(
            f"\n<object><name>{name}</name><difficult>{int(index in difficult)}</difficult>"
            f"\n<bndbox>{box}</bndbox>"
            "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part></object>"
        )
    return "".join([*parts, "</annotation>"])


def write_voc(folder):
    for stem, objects in OBJECTS.items():
        path = folder / "xml" / f"{stem}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(voc(objects))
    return folder / "xml"


def write_yolo(folder):
    for stem, objects in OBJECTS.items():
        path = folder / "labels" / f"{stem}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [
            f"{NAMES.index(name)} {(x + w / 2) / WIDTH} {(y + h / 2) / HEIGHT} {w / WIDTH} {h / HEIGHT}\n"
            for name, (x, y, w, h) in objects
        ]
        if lines:
            path.write_text("".join(lines))
    (folder / "classes.txt").write_text("\n".join(NAMES) + "\n")
    return folder / "labels"


def objects_of(dataset):
    """What `OBJECTS` has, of a document."""
    names = {each["id"]: each["name"] for each in dataset.document["categories"]}
    found = {image: [] for image in dataset.ids.values()}
    for record in dataset.document["annotations"]:
        found[record["image_id"]].append((names[record["category_id"]], tuple(record["bbox"])))
    return found


@pytest.mark.parametrize(("write", "name"), [(write_coco, "coco"), (write_voc, "voc"), (write_yolo, "yolo")])
def test_every_format_says_the_same(write, name, images, tmp_path):
    dataset = read_dataset(write(tmp_path), images)
    assert dataset.format == name
    found = objects_of(dataset)
    assert len(dataset.ids) == len(OBJECTS)
    for path, number in dataset.ids.items():
        expected = OBJECTS[path.relative_to(images.root).with_suffix("").as_posix()]
        assert [each for each, _ in found[number]] == [each for each, _ in expected]
        for (_, box), (_, wanted) in zip(found[number], expected, strict=True):
            assert box == pytest.approx(wanted, abs=1e-9)  # shares of a side are rounded to float64


def test_the_hash_is_of_what_the_labels_say(images, tmp_path):
    labels = write_voc(tmp_path)
    before = read_dataset(labels, images).sha256
    assert read_dataset(labels, images).sha256 == before
    (labels / "cam" / "b.xml").write_text(voc([("cat", (0, 0, 1, 1))]))
    assert read_dataset(labels, images).sha256 != before


def test_difficult_objects_are_crowds_that_are_marked(images, tmp_path):
    labels = write_voc(tmp_path)
    (labels / "a.xml").write_text(voc(OBJECTS["a"], difficult=[1]))
    records = read_dataset(labels, images).document["annotations"]
    assert [(each["iscrowd"], each["difficult"]) for each in records] == [(0, 0), (1, 1), (0, 0)]


def test_voc_images_without_labels_have_no_id(images, tmp_path):
    labels = write_voc(tmp_path)
    (labels / "cam" / "b.xml").unlink()
    dataset = read_dataset(labels, images)
    assert [path.name for path in dataset.ids] == ["a.png", "a.png"]


def test_names_of_yolo_are_found_above_and_in_yaml(images, tmp_path):
    pytest.importorskip("yaml")
    labels = write_yolo(tmp_path)
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(AqdError, match=r"no file with the names of their classes.*--names"):
        read_dataset(labels, images)
    for text in ("names: [cat, dog]", "names:\n  1: dog\n  0: cat\n"):
        (tmp_path / "data.yaml").write_text(text)
        assert [each["name"] for each in read_dataset(labels, images).document["categories"]] == [
            "cat",
            "dog",
        ]
    (tmp_path / "other.txt").write_text("x\ny\n")
    named = read_dataset(labels, images, tmp_path / "other.txt")
    assert [each["name"] for each in named.document["categories"]] == ["x", "y"]
    with pytest.raises(AqdError, match=r"labels that have them.*without --names"):
        read_dataset(write_coco(tmp_path), images, tmp_path / "other.txt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- cat", "no list `names`"),
        ("names: {0: a, 2: b}", "no list `names`"),
        ("names: [a, a]", "a name of its own"),
        ("names: [", "not YAML"),
    ],
)
def test_files_of_classes_that_are_none(text, message, images, tmp_path):
    pytest.importorskip("yaml")
    labels = write_yolo(tmp_path)
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(AqdError, match=message):
        read_dataset(labels, images)


def test_a_polygon_of_yolo_is_the_box_around_it_and_a_line_counts_once(images, tmp_path):
    labels = write_yolo(tmp_path)
    line = "1 0.5 0.5 1 0.5 0.75 1\n"
    (labels / "cam" / "b.txt").write_text(line + "\n" + line)
    *_, record = read_dataset(labels, images).document["annotations"]
    assert record["bbox"] == [20.0, 10.0, 20.0, 10.0]
    assert len(read_dataset(labels, images).document["annotations"]) == 4


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.1", "a line of 4 numbers"),
        ("0 0.5 0.5 0.1 0.1 0.9", "a line of 6 numbers"),
        ("2 0.5 0.5 0.1 0.1", "class 2 of 2, which count from 0"),
        ("0.5 0.5 0.5 0.1 0.1", "class 0.5 of 2"),
        ("0 20 10 4 4", "not a share of the image"),
        ("0 0.5 0.5 nan 0.1", "not a share of the image"),
        ("0 0.5 0.5 0 0.1", "a box of no size"),
        ("cat 0.5 0.5 0.1 0.1", r"not numbers \(cat 0.5"),
    ],
)
def test_damaged_lines_of_yolo(line, message, images, tmp_path):
    labels = write_yolo(tmp_path)
    (labels / "cam" / "b.txt").write_text(f"0 0.5 0.5 0.5 0.5\n{line}\n")
    with pytest.raises(AqdError, match=rf"{message}.*got .*cam/b\.txt:2; valid: 5 numbers"):
        read_dataset(labels, images)


@pytest.mark.parametrize(
    ("old", "new", "message", "line"),
    [
        ("</annotation>", "", "not XML", 6),
        ("<xmin>1</xmin>", "", "an <object> without xmin", 3),
        ("<xmin>1</xmin>", "<xmin>one</xmin>", "'one' as xmin", 4),
        ("<ymax>5</ymax>", "<ymax>nan</ymax>", "'nan' as ymax", 4),
        ("<ymax>5</ymax>", "<ymax>0</ymax>", "a box of no size", 3),
        ("<name>dog</name>", "<name> </name>", "an <object> without name", 3),
        ("<annotation>", "<html>", "not XML: mismatched tag", 6),
        ("<annotation>", "<!DOCTYPE a [<!ENTITY e 'e'>]><annotation>", "declares an entity", 1),
        ("<difficult>0", "<difficult>no", "'no' as difficult", 3),
    ],
)
def test_damaged_xml(old, new, message, line, images, tmp_path):
    labels = write_voc(tmp_path)
    text = voc(OBJECTS["a"])
    assert old in text
    (labels / "a.xml").write_text(text.replace(old, new, 1))
    with pytest.raises(AqdError, match=rf"{message}.*got .*a\.xml:{line}\b"):
        read_dataset(labels, images)


def test_labels_and_images_that_do_not_fit(images, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(AqdError, match="the folder has no labels in it"):
        read_dataset(empty, images)
    with pytest.raises(AqdError, match="no such annotations file"):
        read_dataset(tmp_path / "none", images)
    with pytest.raises(ImageError, match="has no images"):
        ImageFolder.of(empty)
    with pytest.raises(AqdError, match="not a folder"):
        ImageFolder.of(tmp_path / "none")
    xml, yolo = write_voc(tmp_path), write_yolo(tmp_path)
    (images.root / "a.png").unlink()
    fewer = ImageFolder.of(images.root)
    with pytest.raises(AqdError, match=r"1 of 3 label files have no image.*xml/a\.xml"):
        read_dataset(xml, fewer)
    with pytest.raises(AqdError, match=r"1 of 2 label files have no image.*labels/a\.txt"):
        read_dataset(yolo, fewer)
    with pytest.raises(AqdError, match=r"1 of 3 images that the annotations name are not in .*got a\.png"):
        read_dataset(write_coco(tmp_path), fewer)
    (yolo / "x.xml").write_text("<annotation/>")
    with pytest.raises(AqdError, match="labels of two formats"):
        read_dataset(yolo, images)


def test_two_images_that_a_label_does_not_tell_apart(images, tmp_path):
    (images.root / "a.jpg").write_bytes((images.root / "a.png").read_bytes())
    both = ImageFolder.of(images.root)
    with pytest.raises(AqdError, match=r"what stands behind the point.*a\.jpg, .*a\.png"):
        read_dataset(write_voc(tmp_path), both)
    assert len(read_dataset(write_coco(tmp_path), both).ids) == 3
