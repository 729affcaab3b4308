"""Checkpoints of other frameworks on the whole way: QDQ file, integer file, program, boxes."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

from aqd_deploy.compiler import compile_model
from aqd_deploy.detection.textures import textures
from aqd_deploy.evaluation.compare import compare_integers, total_difference
from aqd_deploy.frontends.export import ArchitectureOptions, export_source
from aqd_deploy.integer.manifest import read_manifest
from aqd_deploy.integer.reference import ReferenceRunner
from aqd_deploy.passes.pipeline import lower
from aqd_deploy.qat.sources import load_detector
from aqd_deploy.quantization.calibration import Calibration
from aqd_deploy.quantization.pipeline import quantize
from aqd_deploy.runtime import Program
from aqd_deploy.workflow.detect import ImageFiles, detect_images
from tools.foreign_checkpoints import KINDS, Sizes, checkpoint

SIDE = 64
FLOAT_SIDE = 256
"""On maps of one pixel a group norm divides by next to nothing."""
SMALL = Sizes("r18", width=0.125, channels=64, depth=1, classes=3)
BITS = {"aqd_retinanet": (2, 2), "aqd_fcos": (4, 8)}


def exported(tmp_path, kind, side, levels=None):
    torch.save({"model": checkpoint(kind, SMALL, levels)}, tmp_path / "m.pth")
    options = ArchitectureOptions(image_size=(side, side))
    summary = export_source(str(tmp_path / "m.pth"), tmp_path / "m.qdq.onnx", options)
    return tmp_path / "m.qdq.onnx", summary


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("kind", "bits"),
    [
        *BITS.items(),
        pytest.param("aqd_retinanet", (4, 4), marks=pytest.mark.matrix),
        pytest.param("aqd_fcos", (2, 8), marks=pytest.mark.matrix),
    ],
)
def test_programs_of_the_authors_checkpoints(tmp_path, kind, bits):
    """Not one integer of the program differs from the integer file's, and its maps are those of torch."""
    path, summary = exported(tmp_path, kind, SIDE, tuple(2**each for each in bits))
    assert summary["origin"]["source"].startswith(("RetinaNet", "FCOS"))
    detector, _ = load_detector(tmp_path / "m.pth", image_size=(SIDE, SIDE))
    lowered = lower(onnx.load(path))
    assert lowered.report["float_tensors"] == 0
    manifest = read_manifest(lowered.model)
    assert (manifest["bits"]["weights"], manifest["bits"]["first_last"]) == bits
    compile_model(lowered.model, tmp_path / "m.so")
    program, reference = Program.load(tmp_path / "m.so"), ReferenceRunner(lowered.model)
    for seed in (7, 8):
        image = {"image": textures(1, SIDE, SIDE, seed=seed)}
        expected = reference.run(image)
        difference = total_difference(compare_integers(expected, program.run(image)))
        assert difference.count > 0 and difference.differing == 0
    with torch.no_grad():
        wanted = detector(detector.preprocess(torch.from_numpy(image["image"])))
    for name, value in expected.items():
        scale = np.asarray(manifest["outputs"][name]["scale"]).reshape(1, -1, 1, 1)
        found, real = (value * scale).ravel(), wanted[name].numpy().ravel()
        # Codes on the edge of two may differ: single ones, which sums over channels hide.
        assert np.linalg.norm(found - real) < 0.02 * np.linalg.norm(real)
    assert len(_detected(program, manifest, image["image"], tmp_path).detections) > 0


@pytest.mark.e2e
@pytest.mark.parametrize("kind", ["detectron2_retinanet", "torchvision_retinanet"])
def test_a_float_checkpoint_quantized_by_images_draws_boxes(tmp_path, kind):
    path, _ = exported(tmp_path, kind, SIDE)
    images = [{"image": textures(1, SIDE, SIDE, seed=seed)} for seed in range(16)]
    lowered = lower(quantize(onnx.load(path), Calibration.of(images)).model)
    assert lowered.report["float_tensors"] == 0
    compile_model(lowered.model, tmp_path / "m.so")
    program, manifest = Program.load(tmp_path / "m.so"), read_manifest(lowered.model)
    expected = ReferenceRunner(lowered.model).run(images[0])
    difference = total_difference(compare_integers(expected, program.run(images[0])))
    assert difference.count > 0 and difference.differing == 0
    found = _detected(program, manifest, images[0]["image"], tmp_path)
    assert len(found.detections) > 0
    drawn = found.drawing.read_bytes()
    assert (
        drawn
        != _detected(program, manifest, images[0]["image"], tmp_path, draw_above=1.0).drawing.read_bytes()
    )


def _detected(program, manifest, image, folder, draw_above=1e-3):
    """What the program finds in an image [1, 3, H, W] in BGR."""
    Image.fromarray(image[0].transpose(1, 2, 0)[..., ::-1].copy()).save(folder / "i.png")
    files = ImageFiles([folder / "i.png"])
    found = detect_images(
        program.run, manifest, files, folder / "out", least_score=1e-3, draw_above=draw_above
    )
    return found.images[0]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith("aqd_")])
def test_float_files_are_the_imported_networks(tmp_path, kind):
    """onnxruntime on the exported file of uint8 pixels, against the detector in torch."""
    path, _ = exported(tmp_path, kind, FLOAT_SIDE)
    detector, _ = load_detector(tmp_path / "m.pth", image_size=(FLOAT_SIDE, FLOAT_SIDE))
    pixels = textures(1, FLOAT_SIDE, FLOAT_SIDE, seed=7)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    with torch.no_grad():
        wanted = detector(detector.preprocess(torch.from_numpy(pixels)))
    assert sorted(names) == sorted(wanted)
    for name, value in zip(names, session.run(names, {"image": pixels}), strict=True):
        scale = max(1.0, float(wanted[name].abs().max()))
        np.testing.assert_allclose(value, wanted[name].numpy(), atol=1e-4 * scale)
