"""Where the demonstration finds its checkpoints, and which float network belongs to a quantized one."""

from __future__ import annotations

import json

import pytest
from fake_detector import CAT, manifest_of, run, save_image

import aqd_deploy
from aqd_deploy.errors import AqdError, CheckpointError, ImageError
from aqd_deploy.evaluation.agreement import detections_of, run_all
from aqd_deploy.workflow import demo


def test_an_install_without_the_source_tree_names_the_clone(monkeypatch, tmp_path):
    package = tmp_path / "site-packages" / "aqd_deploy"
    package.mkdir(parents=True)
    monkeypatch.setattr(aqd_deploy, "__file__", str(package / "__init__.py"))
    with pytest.raises(AqdError, match="git clone"):
        demo.examples_folder()


def test_the_shipped_images_are_annotated():
    images = demo._load_images(demo.examples_folder() / "images")
    assert images.annotations is not None
    assert len(images.files) == len(images.annotations["images"]) >= 20


def test_a_folder_of_float_checkpoints_alone_is_refused(tmp_path):
    pytest.importorskip("torch")
    from aqd_deploy.qat.checkpoint import save_checkpoint
    from aqd_deploy.qat.config import parse_architecture
    from aqd_deploy.qat.models import build_model

    small = {"width": 0.125, "fpn_channels": 16, "head_depth": 1, "classes": 3}
    config = parse_architecture("fcos_r18", bits=None, image_height=64, image_width=64, **small)
    save_checkpoint(tmp_path / "float.pt", build_model(config))
    with pytest.raises(CheckpointError, match="no quantized checkpoint"):
        demo._load_checkpoints(tmp_path)


def test_the_float_twin_has_the_same_architecture():
    torch = pytest.importorskip("torch")
    from aqd_deploy.qat.config import parse_architecture
    from aqd_deploy.qat.models import build_model

    torch.manual_seed(0)
    small = {"width": 0.125, "fpn_channels": 16, "head_depth": 1, "image_height": 64, "image_width": 64}
    quantized = build_model(parse_architecture("fcos_r18", bits=4, classes=3, **small))
    twin = build_model(parse_architecture("fcos_r18", bits=None, classes=3, **small))
    other = build_model(parse_architecture("fcos_r18", bits=None, classes=4, **small))
    assert demo._float_twin(quantized, [other, twin]) is twin
    assert demo._float_twin(quantized, [other]) is None


def test_only_images_that_are_annotated_and_there_count(tmp_path):
    """All are found as they are: AP is 1, however many more are annotated."""
    files = [save_image(tmp_path / name, CAT) for name in ("a.png", "b.png", "more.png")]
    boxes = [[0, 0, 12, 12], [20, 0, 16, 12]]
    (tmp_path / "annotations.json").write_text(
        json.dumps(
            {
                "images": [{"id": k, "file_name": f"{name}.png"} for k, name in enumerate("abcdef")],
                "annotations": [
                    {"id": k + 1, "image_id": k, "category_id": 3, "bbox": boxes[0]} for k in range(6)
                ],
                "categories": [{"id": 3, "name": "cat"}, {"id": 4, "name": "dog"}],
            }
        )
    )
    images = demo._load_images(tmp_path)
    assert images.files == files[:2]
    manifest = manifest_of()
    tensors, placements = images.tensors(manifest)
    outputs = run_all(run, "image", tensors)
    found = images.average_precision(manifest, detections_of(outputs, manifest, placements))
    assert found["AP"] == pytest.approx(1.0, abs=1e-12)


def test_annotations_of_other_images(tmp_path):
    save_image(tmp_path / "a.png", CAT)
    document = {"images": [{"id": 1, "file_name": "val/a.png"}], "annotations": [], "categories": []}
    (tmp_path / "annotations.json").write_text(json.dumps(document))
    with pytest.raises(ImageError, match=r"do not name the image; .*ends with val/a\.png"):
        demo._load_images(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="no images"):
        demo._load_images(tmp_path / "empty")


def test_files_of_others_stop_the_demo_before_the_work(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    checkpoints, images, out = tmp_path / "checkpoints", tmp_path / "images", tmp_path / "out"
    checkpoints.mkdir()
    (checkpoints / "m.pt").write_text("checkpoint")
    save_image(images / "a.png", CAT)
    monkeypatch.setattr(demo, "_load_checkpoints", lambda folder: ({folder / "m.pt": None}, []))

    class WorkError(Exception):
        pass

    def work(job, *_: object) -> None:
        with job.making(".so") as path:
            path.write_text("program")
        raise WorkError

    monkeypatch.setattr(demo, "_take", work)
    out.mkdir()
    for name in ("m.so", "m.int.onnx", "report.md", "m_boxes/a.png"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("mine")
        with pytest.raises(AqdError, match=rf"not known to be written by \w+; got .*{name}"):
            demo.demo(out, checkpoints, images)
        assert (out / name).read_text() == "mine"
        (out / name).unlink()
    for _ in range(2):
        with pytest.raises(WorkError):
            demo.demo(out, checkpoints, images)
        assert (out / "m.so").read_text() == "program"
    with pytest.raises(WorkError):
        demo.demo(checkpoints, checkpoints, images)
    (checkpoints / "report.md").hardlink_to(checkpoints / "m.pt")
    with pytest.raises(AqdError, match=r"also an input; got .*report\.md"):
        demo.demo(checkpoints, checkpoints, images)
