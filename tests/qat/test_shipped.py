"""The checkpoints that the digits example ships: they load, are what their names say, and stay small."""

import json
from pathlib import Path

import pytest
import torch

from aqd_deploy.qat.checkpoint import checkpoint_record, load_checkpoint

FOLDER = Path(__file__).parents[2] / "examples" / "digits" / "checkpoints"
SHIPPED = {
    "fcos_r18_digits_float": ("fcos", None),
    "fcos_r18_digits_4bit": ("fcos", 4),
    "fcos_r18_digits_2bit": ("fcos", 2),
    "retinanet_r18_digits_float": ("retinanet", None),
    "retinanet_r18_digits_4bit": ("retinanet", 4),
}


def test_together_they_are_at_most_eight_megabytes():
    files = sorted(FOLDER.glob("*.pt"))
    assert [path.stem for path in files] == sorted(SHIPPED)
    assert sum(path.stat().st_size for path in files) <= 8_000_000


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
