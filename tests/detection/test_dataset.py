"""Which ids images and classes get: the data set's, or unique ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from aqd_deploy.detection.dataset import AnnotatedImages, category_ids, numbered
from aqd_deploy.errors import AqdError


def test_category_ids_are_matched_by_name():
    annotations = {"categories": [{"id": 90, "name": "b"}, {"id": 18, "name": "a"}, {"id": 3, "name": "c"}]}
    assert category_ids(["a", "b"], annotations) == [18, 90]
    with pytest.raises(AqdError, match=r"nowhere.*'?d.*b, a, c"):
        category_ids(["a", "d"], annotations)
    annotations["categories"].append({"id": 4, "name": "a"})
    with pytest.raises(AqdError, match="twice"):
        category_ids(["a"], annotations)


@pytest.mark.parametrize(
    ("names", "numbers"),
    [
        (["000000397133.jpg", "d/000000000139.jpg"], [397133, 139]),
        (["cam1/0001.png", "cam2/0001.png"], [1, 2]),
        (["1.png", "01.png", "001.jpg"], [1, 2, 3]),
        (["a/img.png", "b/img.png", "3.png"], [1, 2, 3]),
        (["7.png", "x.png"], [1, 2]),
        (["²3.png", "४.png"], [1, 2]),
        (["9" * 400 + ".png", "8.png"], [1, 2]),
        (["0.png"], [0]),
        ([], []),
    ],
)
def test_numbers_are_the_names_or_unique(names, numbers):
    assert list(numbered(map(Path, names)).values()) == numbers


def test_a_file_named_twice_is_one_image():
    assert numbered([Path("b.png"), Path("a.png"), Path("b.png")]) == {Path("b.png"): 1, Path("a.png"): 2}


def test_images_are_found_by_the_end_of_their_path(tmp_path, monkeypatch):
    images = AnnotatedImages(
        {
            "images": [
                {"id": 5, "file_name": "cam1/0001.png"},
                {"id": 6, "file_name": "cam2\\0001.png"},
                {"id": "seven", "file_name": "./o\u0308.png"},
                {"id": 0, "file_name": "top.png"},
                {"id": 9},
            ]
        }
    )
    files = [tmp_path / name for name in ("cam1/0001.png", "cam2/0001.png", "\u00f6.png", "x/top.png")]
    assert images.assign(files) == (dict(zip(files, [5, 6, "seven", 0], strict=True)), {})
    (tmp_path / "cam2").mkdir()
    monkeypatch.chdir(tmp_path / "cam2")
    here = [Path("0001.png"), Path("../cam1/0001.png")]
    assert images.assign(here)[0] == {here[0]: 6, here[1]: 5}


def test_files_that_are_no_image_of_the_annotations():
    images = AnnotatedImages({"images": [{"id": 1, "file_name": "cam1/a.png"}, {"id": 2, "file_name": "b"}]})
    files = [Path("/cam2/a.png"), Path("/c.png"), Path("/x/b"), Path("/y/b"), Path("/cam1/a.png")]
    ids, refused = images.assign(files)
    assert ids == {files[4]: 1}
    told = [refused[path].sentence() for path in files[:4]]
    assert told[0].endswith("do not name the image; got /cam2/a.png; valid: a path that ends with cam1/a.png")
    assert told[1].endswith("do not name the image; got /c.png")
    assert all(text.startswith("another file is the same image") for text in told[2:])


def test_two_images_of_one_name():
    with pytest.raises(AqdError, match=r"two images of one file name; got a//b\.png"):
        AnnotatedImages({"images": [{"id": 1, "file_name": "a/b.png"}, {"id": 2, "file_name": "a//b.png"}]})
