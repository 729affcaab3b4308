"""Stages over a data set: numbers, what is kept, what is refused. The networks read their boxes in pixels."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from pixel_detector import SIDE, Setup, manifest_of, write_dataset

from aqd_deploy.errors import AqdError, ImageError, ModelFileError
from aqd_deploy.workflow.evaluation import job, results, stages
from aqd_deploy.workflow.evaluation.job import Told


@pytest.fixture
def setup(tmp_path, monkeypatch):
    write_dataset(tmp_path)
    made = Setup(tmp_path)
    monkeypatch.setattr(stages, "open_runner", made.open)
    # Every image is kept at once.
    monkeypatch.setattr(job, "_SECONDS", 0.0)
    return made


def without_times(document):
    """The document without what clocks and the machine say."""
    document = json.loads(json.dumps(document))
    del document["created"], document["environment"]
    for model in document["models"]:
        del model["seconds"], model["steps"]
    return document


def kept(setup):
    return sorted(path.name for path in (setup.folder / "run" / "results").glob("[!.]*"))


def test_numbers_of_every_stage(setup):
    document = setup.evaluate(
        setup.stage("float"), setup.stage("program", missed=1), gates=["drop<=0.4", "float.ap>=0.9"]
    )
    accuracy = document["models"][0]["accuracy"]
    assert accuracy["float"]["AP"] == pytest.approx(1.0)
    assert accuracy["program"]["AP"] == pytest.approx(0.5)
    assert accuracy["program"]["per_class"] == {"cat": pytest.approx(1.0), "dog": 0.0}
    assert accuracy["program"]["VOC"] == 0.5
    assert [(each["metric"], each["met"]) for each in document["gates"]] == [("drop.AP", False), ("AP", True)]
    assert document["images"]["count"] == 6 and document["images"]["format"] == "coco"
    assert json.loads((setup.folder / "run" / "report.json").read_text()) == document
    assert kept(setup) == ["float.json", "program.json"]


def test_what_is_known_is_not_run_again(setup):
    first, lines = setup.stage("float"), []
    few = setup.evaluate(first, limit=2)
    assert few["images"]["count"] == 2 and setup.networks["float.net"].ran == 2
    document = setup.evaluate(first, setup.stage("program"), told=Told(lines.append))
    assert setup.networks["float.net"].ran == 6
    assert lines == ["float: 2 of 6 images are known from an earlier run"]
    assert (
        without_times(setup.evaluate(first, setup.stage("program")))["models"]
        == (without_times(document)["models"])
    )
    assert setup.networks["float.net"].ran == 6 and setup.networks["program.net"].ran == 0


def test_another_file_or_setting_or_image_is_run(setup):
    setup.evaluate(setup.stage("program"))
    setup.evaluate(setup.stage("program", content="other weights"))
    assert setup.networks["program.net"].ran == 6
    setup.manifests["program.net"]["detector"]["score_threshold"] = 0.02
    setup.evaluate(setup.stage("program", content="other weights"))
    assert setup.networks["program.net"].ran == 6
    path = setup.images / "cam0" / "i.png"
    Image.fromarray(np.zeros((SIDE, SIDE, 3), np.uint8)).save(path)
    document = setup.evaluate(setup.stage("program", content="other weights"))
    assert setup.networks["program.net"].ran == 1
    assert document["models"][0]["accuracy"]["program"]["VOC"] < 1.0


def test_other_labels_are_evaluated_without_a_run(setup):
    setup.evaluate(setup.stage("program"))
    document = json.loads(setup.labels.read_text())
    document["annotations"] = [each for each in document["annotations"] if each["category_id"] == 10]
    setup.labels.write_text(json.dumps(document))
    accuracy = setup.evaluate(setup.stage("program"))["models"][0]["accuracy"]["program"]
    assert setup.networks["program.net"].ran == 0
    assert accuracy["VOC"] == 1.0 and accuracy["per_class"]["dog"] is None


@pytest.mark.parametrize("left", [0, 1, 4])
def test_a_run_that_is_interrupted_goes_on(setup, left):
    whole = setup.evaluate(setup.stage("program"))
    (setup.folder / "run").rename(setup.folder / "whole")
    with pytest.raises(KeyboardInterrupt):
        setup.evaluate(setup.stage("program", left=left))
    assert not (setup.folder / "run" / "report.json").exists()
    again = setup.evaluate(setup.stage("program"))
    assert setup.networks["program.net"].ran == 6 - left
    assert without_times(again) == without_times(whole)
    assert kept(setup) == ["program.json"]


def test_images_that_labels_do_not_name_are_told(setup):
    lines = []
    Image.new("RGB", (SIDE, SIDE)).save(setup.images / "more.png")
    document = setup.evaluate(setup.stage("float"), told=Told(lines.append))
    assert lines == ["1 of 7 images are not in the annotations and do not count"]
    assert document["images"]["count"] == 6


def test_progress_tells_what_is_left(setup):
    told = []
    setup.evaluate(setup.stage("float"), told=Told(status=told.append))
    assert len(told) == 6
    assert told[-1] == "float: 6 of 6 images, 0:00 left"


def refused(setup, message, *stages, kind=AqdError, **options):
    with pytest.raises(kind, match=message):
        setup.evaluate(*stages, **options)


def test_stages_that_do_not_fit(setup):
    refused(
        setup, "two files are the stage float; got .*STAGE=FILE", setup.stage("float"), setup.stage("float")
    )
    setup.manifests["program.net"] = manifest_of(classes=("cat", "cow"))
    refused(setup, "no classes of the network; got dog", setup.stage("program"))
    setup.manifests["program.net"] = manifest_of(name="other")
    message = r"program.net is of another network than .*got name other; valid: name pixels"
    refused(setup, message, setup.stage("fake_quantized"), setup.stage("program"))
    del setup.manifests["program.net"]["detector"]
    refused(
        setup, "no detector: .*got .*program.net.*--detector", setup.stage("program"), kind=ModelFileError
    )
    assert not (setup.folder / "run").exists()


def test_a_folder_of_another_network(setup):
    stage = setup.stage("program")
    setup.evaluate(stage)
    setup.manifests["program.net"] = manifest_of(name="other")
    refused(setup, "run has results of another network; got name other; valid: name pixels", stage)


def test_a_folder_of_another_version(setup, monkeypatch):
    with monkeypatch.context() as other:
        other.setattr(results, "VERSION", 2)
        setup.evaluate(setup.stage("program"))
    message = r"run\.json has no valid version; got 2; valid: one of 1; try: .* another folder"
    refused(setup, message, setup.stage("program"))


@pytest.mark.parametrize("name", ["run.json", "results/program.json"])
def test_files_of_the_folder_that_somebody_changed(setup, name):
    setup.evaluate(setup.stage("program"))
    path = setup.folder / "run" / name
    path.write_text("")
    refused(setup, f"file is empty; got .*{name}.*another folder", setup.stage("program"))
    path.write_text("{}")
    refused(setup, f"{name}.*another folder", setup.stage("program"))
    assert path.read_text() == "{}"


def test_images_that_cannot_be_used(setup):
    path = setup.images / "cam3" / "i.png"
    Image.new("RGB", (SIDE, SIDE - 1)).save(path)
    message = "another size than its labels are for; got .*16 x 15; valid: 16 x 16"
    refused(setup, message, setup.stage("float"), kind=ImageError)
    # What was found before that one is kept.
    assert kept(setup) == ["float.part000000.json"] or len(kept(setup)) == 3
    path.write_bytes(b"no image")
    refused(setup, "not an image", setup.stage("float"), kind=ImageError)
    path.unlink()
    refused(setup, r"1 of 6 images that the annotations name are not in .*cam3/i.png", setup.stage("float"))


def test_images_without_a_label(setup):
    setup.labels.write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    refused(setup, "the annotations name none of the 6 images", setup.stage("float"))
    write_dataset(setup.folder / "other")
    document = json.loads((setup.folder / "other" / "annotations.json").read_text())
    for change, message in (
        ({"annotations": document["annotations"][-1:]}, "no annotations of what was run"),
        ({"annotations": []}, "'annotations' is empty"),
        ({"categories": [{"id": 10}, {"id": 20}]}, r"no categories\[0\].name"),
    ):
        setup.labels.write_text(json.dumps({**document, **change}))
        refused(setup, message, setup.stage("float"), limit=2)
    assert setup.networks["float.net"].ran == 0


def test_no_more_processes_than_boards(setup, monkeypatch):
    """The processes themselves are tested on the command line."""
    asked, lines = [], []

    def run(stage, tasks, preparation, processes, lost):
        asked.append(processes)
        return original(stage, tasks, preparation)

    original = job.run_images
    farm = SimpleNamespace(here=False, tracker=SimpleNamespace(servers=lambda: 2))
    monkeypatch.setattr(job, "run_images", run)
    monkeypatch.setattr(job, "open_device", lambda text: farm)
    setup.evaluate(setup.stage("program"), processes=3, told=Told(lines.append))
    assert asked == [2]
    assert lines == ["program: 2 boards have this key, so 2 of 3 processes run"]
