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
    with pytest.raises(AqdError, match="one category id"):
        category_ids(["a", "b"], {"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]})
    annotations["categories"].append({"id": 4, "name": "a"})
    with pytest.raises(AqdError, match="twice"):
        category_ids(["a"], annotations)


@pytest.mark.parametrize(
    ("names", "numbers"),
    [
        (["000000397133.jpg", "d/000000000139.jpg"], [397133, 139]),
        (["cam1/0001.png", "cam2/0001.png"], [2, 3]),
        (["1.png", "01.png", "001.jpg"], [2, 3, 4]),
        (["a/img.png", "b/img.png", "3.png"], [4, 5, 3]),
        (["7.png", "x.png"], [7, 8]),
        (["000000000002.png", "000000397133.png", "cover.png"], [2, 397133, 397134]),
        (["²3.png", "४.png"], [1, 2]),
        (["9" * 400 + ".png", "8.png"], [9, 8]),
        (["0.png"], [0]),
        ([], []),
    ],
)
def test_numbers_are_the_names_or_unique(names, numbers):
    assert list(numbered(map(Path, names)).values()) == numbers


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


def test_the_longest_name_counts():
    entries = [(1, "0001.png"), (2, "cam1/0001.png"), (3, "a/cam1/0001.png")]
    images = AnnotatedImages({"images": [{"id": k, "file_name": name} for k, name in entries]})
    files = [Path("/x/0001.png"), Path("/x/cam1/0001.png"), Path("/a/cam1/0001.png")]
    assert images.assign(files) == (dict(zip(files, [1, 2, 3], strict=True)), {})


def test_files_that_are_no_image_of_the_annotations():
    images = AnnotatedImages({"images": [{"id": 1, "file_name": "cam1/a.png"}, {"id": 2, "file_name": "b"}]})
    files = [Path("/cam2/a.png"), Path("/c.png"), Path("/x/b"), Path("/y/b"), Path("/cam1/a.png")]
    ids, refused = images.assign(files)
    assert ids == {files[4]: 1}
    told = [refused[path].sentence() for path in files[:4]]
    assert told[0].endswith("do not name the image; got /cam2/a.png; valid: a path that ends with cam1/a.png")
    assert told[1].endswith("do not name the image; got /c.png")
    assert all(text.startswith("the annotations have one id or name for two") for text in told[2:])


def test_two_images_of_one_name_or_id():
    """They matter to nobody who does not name them."""
    entries = [(1, "a/b.png"), (2, "a//b.png"), (3, "c.png"), (3, "d.png"), (4, "e.png"), (5, "../../f.png")]
    images = AnnotatedImages({"images": [{"id": k, "file_name": name} for k, name in entries]})
    files = [Path(f"/x/{name}") for name in ("a/b.png", "c.png", "d.png", "e.png", "f.png")]
    ids, refused = images.assign(files)
    assert ids == {files[3]: 4, files[4]: 5} and list(refused) == files[:3]
    assert images.assign(files[1:2]) == ({files[1]: 3}, {})


def test_an_image_that_is_not_named_is_told_without_a_look_at_all_names():
    """Of many it took minutes."""

    class Names(dict):
        def __iter__(self):
            raise AssertionError("all names")

        items = keys = values = __iter__

    images = AnnotatedImages({"images": [{"id": k, "file_name": f"a/{k}.png"} for k in range(5)]})
    images._by_name, images._alike = Names(images._by_name), Names(images._alike)
    _, refused = images.assign([Path("/x/no.png"), Path("/x/3.png")])
    assert [error.valid for error in refused.values()] == [None, "a path that ends with a/3.png"]
