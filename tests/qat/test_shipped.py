"""The checkpoints that the digits example ships: they load, are what their names say, and stay small."""

import json
from pathlib import Path

import pytest
import torch

from aqd_deploy.qat.checkpoint import checkpoint_record, load_checkpoint

EXAMPLES = Path(__file__).parents[2] / "examples"
FOLDER, YOLO = EXAMPLES / "digits" / "checkpoints", EXAMPLES / "digits" / "yolo"
SHIPPED = {
    "fcos_r18_digits_float": ("fcos", None),
    "fcos_r18_digits_4bit": ("fcos", 4),
    "fcos_r18_digits_2bit": ("fcos", 2),
    "retinanet_r18_digits_float": ("retinanet", None),
    "retinanet_r18_digits_4bit": ("retinanet", 4),
}


def test_together_all_examples_are_at_most_nine_megabytes():
    assert [path.stem for path in sorted(FOLDER.glob("*.pt"))] == sorted(SHIPPED)
    files = list(EXAMPLES.rglob("*.pt"))
    assert len(files) > len(SHIPPED) and sum(path.stat().st_size for path in files) <= 9_000_000


@pytest.mark.parametrize("name", SHIPPED)
def test_a_checkpoint_is_what_its_name_says(name):
    model = load_checkpoint(FOLDER / f"{name}.pt")
    detector, bits = SHIPPED[name]
    assert (model.config.detector, model.config.bits, model.config.label) == (detector, bits, name)
    with torch.no_grad():
        outputs = model(torch.zeros(1, 3, model.config.image_height, model.config.image_width))
    assert all(bool(torch.isfinite(value).all()) for value in outputs.values())


@pytest.mark.parametrize("name", SHIPPED)
def test_its_record_says_how_it_was_made_and_how_good_it_is(name):
    record = json.loads(checkpoint_record(FOLDER / f"{name}.pt"))
    assert record["command"].endswith(f"--only {name}") and record["seed"] > 0
    assert record["heldout_images"] >= 300 and 0.4 < record["AP"] < 1


@pytest.mark.parametrize("bits", [8, 4])
def test_a_yolo_network_is_what_its_name_says(bits):
    path = YOLO / f"yolov2_tiny_digits_{bits}bit.pt"
    model, record = load_checkpoint(path), json.loads(checkpoint_record(path))
    config = model.config
    assert (config.detector, config.bits, config.quantizer) == ("yolov2", bits, "piecewise-gaussian")
    assert config.label == path.stem and len(list(YOLO.glob("*.pt"))) == 2
    with torch.no_grad():
        (found,) = model(torch.zeros(1, 3, config.image_height, config.image_width)).values()
    assert bool(torch.isfinite(found).all())
    assert record["heldout_images"] >= 300 and 0.2 < record["AP"] < 1
