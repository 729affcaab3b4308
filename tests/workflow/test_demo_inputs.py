"""Where the demonstration finds its checkpoints, and which float network belongs to a quantized one."""

from __future__ import annotations

import pytest

import aqd_deploy
from aqd_deploy.errors import AqdError, CheckpointError
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
