"""A detector is one entry: nobody else knows its name, and a name without an entry is an error everywhere."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
from needing import ROOT

from aqd_deploy.detection.decode import decode
from aqd_deploy.detection.detectors import DETECTORS, detector_named
from aqd_deploy.detection.images import Placement
from aqd_deploy.detection.interface import check_interface
from aqd_deploy.detection.settings import DetectorSettings
from aqd_deploy.errors import AqdError, ModelFileError, UnsupportedModelError

# A kind whose name any result may have a key of: where it stands for the kind cannot be told.
ORDINARY_WORDS = ("boxes",)
ENTRIES = ("aqd_deploy/detection/detectors", "aqd_deploy/qat/detectors")


def mentions(text: str) -> list[str]:
    """Strings of a module that are a detector's name: what comparisons and tables are made of."""
    names = set(DETECTORS).difference(ORDINARY_WORDS)
    return [
        node.value
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in names
    ]


def test_no_code_outside_the_entries_knows_a_name():
    modules = [
        path
        for folder in ("aqd_deploy", "passes", "targets")
        for path in (ROOT / folder).rglob("*.py")
        if not path.is_relative_to(ROOT / ENTRIES[0]) and not path.is_relative_to(ROOT / ENTRIES[1])
    ]
    assert len(modules) > 100
    assert {str(path): mentions(path.read_text(encoding="utf-8")) for path in modules} == {
        str(path): [] for path in modules
    }


def test_a_name_is_found_wherever_it_stands():
    assert mentions('x = 1 if kind == "fcos" else {"retinanet": 2}[kind]') == ["fcos", "retinanet"]


def test_the_readers_half_does_without_torch():
    for path in (ROOT / ENTRIES[0]).glob("*.py"):
        assert "torch" not in path.read_text(encoding="utf-8").replace("without torch", ""), path


@pytest.mark.parametrize("kind", DETECTORS)
def test_an_entry_is_whole(kind):
    detector = detector_named(kind)
    assert detector is DETECTORS[kind] and detector.name == kind and 0 <= detector.nms_iou <= 1
    assert Path(ROOT / ENTRIES[0] / f"{kind}.py").exists()


@pytest.mark.parametrize("name", ["yolo", "FCOS", "", None, 3, ["fcos"]])
def test_an_unknown_name_is_refused_with_the_known_ones(name):
    with pytest.raises(UnsupportedModelError) as caught:
        detector_named(name)
    assert all(known in str(caught.value.valid) for known in DETECTORS)
    assert caught.value.next_command.startswith("aqd-deploy ")


def manifest_of_the_unknown():
    return {
        "detector": {
            "kind": "unknown", "classes": ["a"], "strides": [8], "outputs": {"cls": ["cls"], "box": ["box"]},
            "score_threshold": 0.5, "nms_iou": 0.5, "max_detections": 10, "pre_nms": 10,
        }
    }  # fmt: skip


READERS = {
    "settings": DetectorSettings.from_manifest,
    "interface": lambda manifest: check_interface(
        manifest, {"image": [1, 3, 8, 8]}, {"cls": [1, 1, 1, 1], "box": [1, 4, 1, 1]}
    ),
    "decode": lambda manifest: decode(
        {"cls": np.zeros((1, 1, 1, 1)), "box": np.zeros((1, 4, 1, 1))}, manifest, Placement(8, 8, 0, 0, 8, 8)
    ),
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_every_reader_of_a_manifest_refuses_an_unknown_detector(reader):
    with pytest.raises(
        ModelFileError, match="unknown kind of detector; got 'unknown'; valid: boxes, fcos"
    ) as caught:
        reader(manifest_of_the_unknown())
    assert isinstance(caught.value, AqdError) and caught.value.next_command
