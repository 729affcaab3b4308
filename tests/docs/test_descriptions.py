"""The descriptions of detectors that docs/how-to/foreign-models.md shows are valid, and name what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aqd_deploy.detection.description import read_description
from aqd_deploy.detection.detectors import DETECTORS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "foreign-models.md"
BLOCKS = re.findall(r"^```toml\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
MANIFEST = {"inputs": {"image": {"scale": 0.02, "zero_point": 114, "dtype": "uint8"}}}


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_it_is_valid(block, tmp_path):
    path = tmp_path / "d.toml"
    path.write_text(block)
    entries = read_description(path, MANIFEST, {"image": (1, 3, 96, 96)})
    assert entries["detector"]["kind"] in DETECTORS
    assert entries["preprocessing"]["height"] == 96


def test_defaults_are_those_that_it_tells(tmp_path):
    """A line that says "the default" says nothing: without it the same comes out."""
    path = tmp_path / "d.toml"
    path.write_text(BLOCKS[0])
    with_them = read_description(path, MANIFEST, {"image": (1, 3, 96, 96)})
    kept = [line for line in BLOCKS[0].splitlines() if "the default" not in line]
    assert len(BLOCKS[0].splitlines()) - len(kept) == 4
    path.write_text("\n".join(kept))
    assert read_description(path, MANIFEST, {"image": (1, 3, 96, 96)}) == with_them


def test_every_kind_has_a_row():
    rows = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.MULTILINE)
    assert set(DETECTORS) <= set(rows)
