"""Which images `detect` looks at, what it reports of them, and under which ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fake_detector import CAT, DOG, MANIFEST, detect_images, manifest_of, read, run, save_image
from PIL import Image

from aqd_deploy.detection.image_files import image_files
from aqd_deploy.detection.settings import DetectorSettings
from aqd_deploy.errors import AqdError, ImageError
from aqd_deploy.workflow import detect as workflow


def test_folders_without_hidden_files_and_with_those_below(tmp_path):
    for name in ("b.png", "a.jpg", "._a.jpg", ".x/h.png", "d/c.png", "d/e/f.png"):
        save_image(tmp_path / name)
    (tmp_path / "d" / "up").symlink_to(tmp_path)
    (tmp_path / "note.txt").write_text("")

    def names(*paths, **options):
        found = image_files(paths, **options)
        assert not found.refused
        return [str(path.relative_to(tmp_path)) for path in found.files]

    assert names(tmp_path) == ["a.jpg", "b.png"]
    assert names(tmp_path, recursive=True) == ["a.jpg", "b.png", "d/c.png", "d/e/f.png"]
    assert names(tmp_path / "b.png", tmp_path, tmp_path / "d" / ".." / "a.jpg") == ["b.png", "a.jpg"]
    detect_images(run, MANIFEST, [tmp_path / "a.jpg"], tmp_path)
    detect_images(run, MANIFEST, [tmp_path / "b.png"], tmp_path / "d" / "found")
    assert names(tmp_path, recursive=True) == ["a.jpg", "b.png", "d/c.png", "d/e/f.png"]
    save_image(tmp_path / "a.png", DOG)
    assert names(tmp_path) == ["a.jpg", "a.png", "b.png"]


def test_paths_where_no_image_is_are_told(tmp_path):
    image = save_image(tmp_path / "a.png", CAT)
    save_image(tmp_path / "only" / "below" / "a.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "dangling.png").symlink_to("nothing")
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed").chmod(0)
    named = ["none.png", "only", "empty", "n" * 300, "dangling.png", "a.png"]
    found = image_files([tmp_path / name for name in named])
    assert found.files == [tmp_path / "dangling.png", image]
    told = {path.name: error.sentence() for path, error in found.refused.items()}
    assert list(told) == ["none.png", "only", "empty", "n" * 300]
    assert told["none.png"].startswith("there is no such image file; got ")
    assert told["only"].endswith("only; valid: --recursive, for those in the folders in it")
    assert told["empty"] == f"the folder has no images in it; got {tmp_path / 'empty'}"
    detected = workflow.detect_images(run, MANIFEST, found, tmp_path / "out")
    assert list(detected.failed) == [*found.refused, tmp_path / "dangling.png"]
    assert [entry.path for entry in detected.images] == [image]
    with pytest.raises(ImageError, match="no such image file"):
        workflow.detect_images(None, MANIFEST, found, tmp_path / "out", strict=True)


def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
    image, closed = save_image(tmp_path / "a.png", CAT), tmp_path / "closed"
    save_image(closed / "b.png", CAT)
    iterdir = Path.iterdir

    def refusing(path):
        if path == closed:
            raise PermissionError(13, "Permission denied")
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", refusing)
    found = image_files([tmp_path], recursive=True)
    assert found.files == [image]
    assert found.refused[closed].sentence() == f"the folder cannot be read: Permission denied; got {closed}"


def test_scores_of_at_least(tmp_path):
    """FCOS's score is the root of probability and centre-ness: of 0.8 and 0.2, 0.4. The last two are no
    candidates of the manifest, whose threshold is 0.05; one of them has a score above 0.1 all the same.
    """
    file = save_image(tmp_path / "a.png", (0, 204, 51), (1, 230, 230), (0, 10, 200), (0, 2, 100))
    scores = {}
    for least in (None, 0.01, 0.1, 0.2, 0.39, 0.41, 0.6, 0.902, 0.91, 1.0):
        found = detect_images(run, MANIFEST, [file], tmp_path / "out", least_score=least)
        scores[least] = [round(float(score), 2) for score in found.images[0].detections.scores]
    assert scores == {
        None: [0.9, 0.4], 0.01: [0.9, 0.4, 0.18, 0.06], 0.1: [0.9, 0.4, 0.18], 0.2: [0.9, 0.4],
        0.39: [0.9, 0.4], 0.41: [0.9], 0.6: [0.9], 0.902: [], 0.91: [], 1.0: [],
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["fcos", "retinanet"])
def test_a_score_that_is_the_threshold(kind):
    manifest = {**MANIFEST, "detector": {**MANIFEST["detector"], "kind": kind}}
    if kind == "retinanet":
        manifest["detector"].update(
            outputs={"cls": ["cls"], "box": ["box"]}, anchors={"base": 4.0, "scales": [1.0], "ratios": [1.0]}
        )
    for least in (0.0, 0.02, 0.05, 0.5, 1.0):
        settings = DetectorSettings.from_manifest(manifest).with_candidates_for(least)
        threshold = settings.score_threshold
        assert threshold <= 0.05
        assert least == 0.0 or threshold < (least**2 if kind == "fcos" else least)
        assert threshold >= 0.0


def test_ids_of_the_annotations(tmp_path):
    files = [save_image(tmp_path / cam / "0001.png", CAT, DOG) for cam in ("cam1", "cam2", "cam3")]
    annotations = {
        "images": [{"id": 70 + k, "file_name": f"cam{k}/0001.png"} for k in (1, 2)],
        "annotations": [], "categories": [{"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}],
    }  # fmt: skip
    found = detect_images(run, MANIFEST, files, tmp_path / "out", annotations=annotations)
    assert list(found.failed) == [files[2]]
    results = read(tmp_path / "out", "results.json")
    assert [(r["image_id"], r["category_id"]) for r in results] == [(71, 17), (71, 18), (72, 17), (72, 18)]
    with pytest.raises(ImageError, match="do not name the image"):
        detect_images(run, MANIFEST, files, tmp_path / "out", annotations=annotations, strict=True)


def test_category_ids_of_the_manifest(tmp_path):
    file = save_image(tmp_path / "a.png", DOG)
    detect_images(run, manifest_of(category_ids=[17, 18]), [file], tmp_path / "out")
    assert [r["category_id"] for r in read(tmp_path / "out", "results.json")] == [18]
    for wrong in ([1], [1, 1], [1, 2, 3]):
        with pytest.raises(AqdError, match="category_ids are not one for each class"):
            detect_images(run, manifest_of(category_ids=wrong), [file], tmp_path / "out")


def test_classes_that_no_font_can_write(tmp_path):
    told = []
    file = save_image(tmp_path / "a.png", CAT, DOG)
    unwritten = manifest_of(["cat", "\U000e0100\U000f1234"])
    detect_images(run, unwritten, [file], tmp_path / "out", progress=told.append)
    assert len([line for line in told if "no font here" in line and "fonts-noto" in line]) == 1
    assert np.asarray(Image.open(tmp_path / "out" / "a.png")).shape == (512, 512, 3)
