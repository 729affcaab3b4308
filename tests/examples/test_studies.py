"""The studies of the digits: every one runs through, its steps are the library's, and the page says what was
measured.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mlxtend")
pytest.importorskip("skimage")
pytest.importorskip("sklearn")
torch = pytest.importorskip("torch")

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "digits"
sys.path[:0] = [str(FOLDER), str(FOLDER / "studies")]
import arms  # noqa: E402
import batches  # noqa: E402
import run  # noqa: E402
import session  # noqa: E402
import tables  # noqa: E402
import train as digits  # noqa: E402
from trainer import Trainer, schedule  # noqa: E402

from aqd_deploy.qat.checkpoint import load_checkpoint  # noqa: E402
from aqd_deploy.qat.models import build_model  # noqa: E402
from aqd_deploy.qat.train import TrainSettings, make_optimizer, train_step  # noqa: E402

SIDE = 64
TINY = ["--size", str(SIDE), "--iterations", "2", "2", "--train-images", "4", "--heldout-images", "2",
        "--batch", "2", "--processes", "1"]  # fmt: skip
CPU = torch.device("cpu")


def _images(count: int = 4) -> dict[str, np.ndarray]:
    """Random images with two objects and an unused place each."""
    rng = np.random.default_rng(0)
    boxes = np.zeros((count, 6, 4), np.float32)
    boxes[:, 0] = [3, 20, 25, 50]
    boxes[:, 1] = [30, 10, 56, 40]
    labels = np.full((count, 6), -1)
    labels[:, :2] = [4, 7]
    return {
        "images": rng.integers(0, 256, (count, 3, SIDE, SIDE), np.uint8),
        "boxes": boxes,
        "labels": labels,
    }


def _filled(arrays: dict[str, np.ndarray]) -> batches.Images:
    images = batches.Images(len(arrays["labels"]), SIDE, CPU)
    images.fill(arrays)
    return images


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Arms of all studies, two iterations long on four images."""
    folder = tmp_path_factory.mktemp("studies")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "CALIBRATION_BATCHES", 1)
        for chosen in (
            "^fcos_r18_(group|levels)_float_seed1",  # the others begin with what the file has
            "^fcos_r18_(group|levels)_2bit_aqd_seed1|star_float-head_seed1",
        ):
            assert run.main(["head-norm", "parts", "--work", str(folder), "--only", chosen, *TINY]) == 0
    return folder


def test_every_arm_is_a_checkpoint_with_its_record(work):
    found = {path.stem for path in (work / "arms").iterdir()}
    assert len(found) == 5 and found == {path.stem for path in (work / "checkpoints").iterdir()}
    for name in found:
        record = json.loads((work / "arms" / f"{name}.json").read_text())
        config = load_checkpoint(work / "checkpoints" / f"{name}.pt").config
        assert (config.bits, config.head_norm) == (record["bits"], record["head_norm"])
        assert record["iterations"] == 2 and 0 <= record["AP"] <= 1
        assert record["command"].startswith(
            "python examples/digits/studies/run.py head-norm parts --work DIR"
        )
        assert (record["start"] is None) == (record["bits"] is None)


def test_trained_arms_are_not_trained_again(work, capsys):
    before = {path: path.read_bytes() for path in (work / "checkpoints").iterdir()}
    assert (
        run.main(
            [
                "parts",
                "--work",
                str(work),
                "--only",
                "^fcos_r18_levels_(float|2bit_aqd-star_float-head)_seed1",
                *TINY,
            ]
        )
        == 0
    )
    assert "iterations of" not in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before
    document = json.loads((work / "parts.json").read_text())
    assert {each["name"] for each in document["arms"]} == {
        "fcos_r18_levels_float_seed1", "fcos_r18_levels_2bit_aqd-star_float-head_seed1",
    }  # fmt: skip


def test_scales_are_measured_in_integers(work):
    assert run.main(["scales", "--work", str(work), "--only", "levels_2bit_aqd_seed1", *TINY]) == 0
    (record,) = json.loads((work / "scales.json").read_text())["arms"]
    assert set(record["numerics"]) == {"exact", "power-of-two"}


def test_arms_of_the_studies():
    """A quantized arm starts from the float one of its detector, norm and seed; names are unique."""
    every = arms.needed([arm for study in arms.STUDIES.values() for arm in study()])
    assert len({arm.name for arm in every}) == len(every) == 32 + 18
    for arm in every:
        assert arm.start is None or arm.start in every
    only_backbone = arms.Arm("fcos", "levels", 1, 2, "aqd*", arms.PARTS["backbone"]).config(SIDE)
    quantized = [path for path, module in build_model(only_backbone).named_modules()
                 if getattr(module, "weight_quantizer", None) is not None]  # fmt: skip
    assert quantized and all(path.startswith("backbone.layer") for path in quantized)


def test_batches_are_changed_as_those_of_the_training_script():
    """Against its numpy: colours and shifts, and no shift that would cut a digit."""
    arrays = _images()
    draws = batches.Draws(4, 4, 3, seed=5, device=CPU)
    images = _filled(arrays)
    kept = 0
    for iteration in range(3):
        pixels, boxes, labels = batches.batch_of(images, draws, torch.tensor([iteration]))
        for k, chosen in enumerate(draws.chosen[iteration].tolist()):
            image, box = arrays["images"][chosen].copy(), arrays["boxes"][chosen].copy()
            label = arrays["labels"][chosen]

            class Shift:
                def integers(self, low, high, size, k=k, iteration=iteration):
                    return draws.shift[iteration, k].numpy()

            digits._shift(image, box, label, Shift())
            kept += int((box == arrays["boxes"][chosen]).all())
            image = image[draws.channels[iteration, k].numpy()]
            image = 255 - image if bool(draws.negative[iteration, k]) else image
            gain, offset = (float(table[iteration, k]) for table in (draws.gain, draws.offset))
            wanted = np.clip((image.astype(np.float32) - 128) * np.float32(gain)
                             + (128 + np.float32(offset)), 0, 255).astype(np.uint8)  # fmt: skip
            # The last digit of a float32 may decide which whole number it is cut to.
            assert np.abs(pixels[k].numpy() - wanted).max() <= 1
            assert (pixels[k].numpy() != wanted).mean() < 1e-3
            assert np.array_equal(boxes[k].numpy(), box) and np.array_equal(labels[k].numpy(), label)
    assert 0 < kept < 12


def test_a_step_is_the_librarys():
    """The same batch in `train_step` moves every parameter as far, but for sums in another order."""
    arm = arms.Arm("fcos", "levels", 1)
    arrays = _images()
    torch.manual_seed(3)
    model, other = build_model(arm.config(SIDE)), build_model(arm.config(SIDE))
    other.load_state_dict(model.state_dict())
    images, draws = _filled(arrays), batches.Draws(4, 4, 2, seed=5, device=CPU)
    trainer = Trainer(model, images, draws, 1e-3)
    trainer.capture()
    trainer.begin(2)
    pixels, boxes, labels = batches.batch_of(images, draws, torch.tensor([0]))
    settings = TrainSettings(2, float(schedule(2, 1e-3, 2, CPU)[0]))
    optimizer = make_optimizer(other.train().to(memory_format=torch.channels_last), settings)
    losses = train_step(other, optimizer, pixels.to(torch.uint8), boxes, labels, settings.clip_norm)
    trainer.step()
    assert trainer.last_loss() == pytest.approx(sum(losses.values()), rel=1e-5)
    for (name, value), wanted in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.allclose(value, wanted, atol=1e-6), name


def test_the_page_has_the_measured_numbers():
    page = tables.PAGE.read_text()
    assert tables.updated(page) == page
    marks = re.findall(r"<!-- ([\w-]+) -->", page)
    assert [mark for mark in marks if mark != "end"] == list(run.STUDIES)
    for study in run.STUDIES:
        document = json.loads((tables.RESULTS / f"{study}.json").read_text())
        assert document["study"] == study and document["arms"]


@pytest.mark.parametrize("arguments", [["tables"], ["bits"], ["bits", "--work", "x", "--batch", "0"]])
def test_usage_of_the_studies(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        run.main(arguments)
    assert caught.value.code == 2
    capsys.readouterr()
