"""`export` of checkpoints of other frameworks: what it prints, and what it says of those that it refuses."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from aqd_deploy.cli.main import invoke  # noqa: E402
from tools.foreign_checkpoints import Sizes, checkpoint  # noqa: E402

SMALL = Sizes("r18", 0.125, 32, 1, 3)


def test_what_became_of_every_tensor(tmp_path, capsys):
    tensors = checkpoint("aqd_retinanet", SMALL, (16, 16)) | {"criterion.weight": torch.ones(3)}
    torch.save({"model": tensors, "iteration": 3}, tmp_path / "m.pth")
    arguments = ["export", str(tmp_path / "m.pth"), "--image-size", "64", "-o", str(tmp_path / "m.onnx")]
    assert invoke(arguments) == 0
    text = capsys.readouterr().out
    assert "RetinaNet of Detectron2" in text and "wt_adaptive is taken as var-mean" in text
    assert invoke([*arguments, "--json"]) == 0
    origin = json.loads(capsys.readouterr().out)["origin"]
    assert sorted(origin["used"] + origin["unused"]) == sorted(tensors)
    assert "criterion.weight" in origin["unused"] and origin["missing"] == []
    assert invoke(["inspect", str(tmp_path / "m.pth"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["record"] == "RetinaNet of Detectron2"


@pytest.mark.parametrize(
    ("kind", "change", "sentence"),
    [
        ("aqd_fcos", "cls_tower.1.4.running_var", "no proposal_generator.fcos_head.cls_tower.1.4"),
        ("aqd_retinanet", "head.bbox_pred.weight", "weights without a description"),
        ("torchvision_fcos", "head.regression_head.bbox_reg.weight", "no head.regression_head.bbox_reg"),
        ("detectron2_retinanet", "backbone.fpn_output4.weight", "no backbone.fpn_output4.weight"),
    ],
)
def test_checkpoints_of_others(kind, change, sentence, fails, tmp_path):
    tensors = checkpoint(kind, SMALL, (16, 16) if "aqd" in kind else None)
    lacking = {name: value for name, value in tensors.items() if not name.endswith(change)}
    torch.save({"model": lacking}, tmp_path / "m.pth")
    assert sentence in fails("export", tmp_path / "m.pth", "-o", tmp_path / "m.qdq.onnx")


def test_group_norm_is_refused_where_quantization_is_asked(fails, capsys, tmp_path):
    torch.save(checkpoint("adelaidet_fcos", SMALL), tmp_path / "m.pth")
    assert (
        invoke(["export", str(tmp_path / "m.pth"), "--image-size", "64", "-o", str(tmp_path / "f.onnx")]) == 0
    )
    capsys.readouterr()
    np.savez(tmp_path / "x.npz", image=np.zeros((16, 3, 64, 64), np.uint8))
    told = fails(
        "quantize", tmp_path / "f.onnx", "--calibration", tmp_path / "x.npz", "-o", tmp_path / "q.onnx"
    )
    assert "GroupNormalization" in told and "docs/how-to/checkpoints.md" in told


def test_training_configurations(fails, tmp_path):
    out, recipe = tmp_path / "m.qdq.onnx", tmp_path / "f.yaml"
    assert "without --config" in fails("export", "fcos_r18", "--config", recipe, "-o", out)
    torch.save(checkpoint("aqd_fcos", SMALL, (16, 16)), tmp_path / "m.pth")
    export = ("export", tmp_path / "m.pth", "--config", recipe, "-o")
    assert "no such training configuration" in fails(*export, out)
    recipe.write_text("MODEL: {FPN: {FUSE_TYPE: avg}}")
    assert "FUSE_TYPE" in fails(*export, out)
    assert "also an input" in fails(*export, recipe)
