"""The shipped digits detectors: the same integers on every target, and no accuracy lost on the way."""

import json
import sys
from pathlib import Path

import onnx
import pytest

from aqd_deploy.compiler import compile_model
from aqd_deploy.detection.decode import decode
from aqd_deploy.detection.image_files import image_files
from aqd_deploy.detection.images import Preprocess, load_image
from aqd_deploy.detection.results import coco_results
from aqd_deploy.evaluation.agreement import ImageSet, detections_of, run_all
from aqd_deploy.evaluation.coco import evaluate, load_annotations
from aqd_deploy.evaluation.compare import compare_integers, total_difference
from aqd_deploy.frontends.torch_qdq import export_qdq
from aqd_deploy.integer.reference import ReferenceRunner
from aqd_deploy.passes.pipeline import lower
from aqd_deploy.qat.checkpoint import load_checkpoint
from aqd_deploy.runtime import Program
from aqd_deploy.workflow.detect import detect_images

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "digits"
QUANTIZED = ("fcos_r18_digits_4bit", "fcos_r18_digits_2bit", "retinanet_r18_digits_4bit")
EXACT_IMAGES, ACCURACY_IMAGES = 16, 300

sys.path.insert(0, str(EXAMPLE))
from compose import Composer  # noqa: E402

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="session")
def heldout(tmp_path_factory):
    """Composed held-out images, uint8 [H, W, 3] RGB, and their annotations."""
    folder = tmp_path_factory.mktemp("heldout")
    annotations = load_annotations(Composer("heldout", size=160).write("heldout", ACCURACY_IMAGES, folder))
    return [load_image(folder / entry["file_name"]) for entry in annotations["images"]], annotations


@pytest.fixture(scope="session", params=QUANTIZED)
def shipped(request, tmp_path_factory):
    """The QDQ model, the lowering result and the host program of a shipped checkpoint."""
    qdq = export_qdq(load_checkpoint(EXAMPLE / "checkpoints" / f"{request.param}.pt"))
    lowered = lower(qdq)
    path = tmp_path_factory.mktemp(request.param) / "host.so"
    compile_model(lowered.model, path, target="host")
    return qdq, lowered, Program.load(path)


def average_precision(run, manifest, heldout):
    """AP in points of `run(inputs) -> outputs` on the held-out images."""
    images, annotations = heldout
    preprocess = Preprocess.from_manifest(manifest)
    results = []
    for index, image in enumerate(images):
        pixels, placement = preprocess(image)
        found = decode(run({"image": pixels}), manifest, placement)
        results += coco_results(annotations["images"][index]["id"], found)
    return 100 * evaluate(annotations, results)["AP"]


def float_runner(qdq: onnx.ModelProto):
    """onnxruntime on the QDQ file: the fake-quantized network."""
    return ReferenceRunner(qdq, as_written=True).run


def manifest_of(model: onnx.ModelProto) -> dict:
    return json.loads(next(entry.value for entry in model.metadata_props if entry.key == "aqd.manifest"))


def test_every_target_gives_the_reference_integers(shipped, heldout, tmp_path):
    _, lowered, host = shipped
    programs = {"host": host}
    for target in ("x86-64-v3", "x86-64-v2"):
        compile_model(lowered.model, tmp_path / f"{target}.so", target=target)
        programs[target] = Program.load(tmp_path / f"{target}.so")
    reference = ReferenceRunner(lowered.model)
    preprocess = Preprocess.from_manifest(host.manifest)
    for image in heldout[0][:EXACT_IMAGES]:
        inputs = {"image": preprocess(image)[0]}
        expected = reference.run(inputs)
        for program in programs.values():
            assert total_difference(compare_integers(expected, program.run(inputs))).differing == 0


def test_integers_cost_no_accuracy(shipped, heldout):
    qdq, _, program = shipped
    simulated = average_precision(float_runner(qdq), manifest_of(qdq), heldout)
    integer = average_precision(program.run, program.manifest, heldout)
    assert simulated > 30
    assert abs(integer - simulated) <= 0.2


def test_at_least_99_percent_of_the_channels_are_proven_exact(shipped):
    report = shipped[1].report
    assert report["proven"] >= 0.99 * report["requantized_channels"] > 0
    assert report["float_tensors"] == 0
    assert all("error_bound" in entry for entry in report["skip_adds"])


@pytest.mark.parametrize("shipped", ["fcos_r18_digits_2bit"], indirect=True)
def test_two_bit_weights_take_at_most_0_30_byte(shipped):
    _, _, program = shipped
    by_bits = program.manifest["program"]["weights"]["by_bits"].values()
    stored, weights = sum(e["bytes"] for e in by_bits), sum(e["weights"] for e in by_bits)
    assert weights > 500_000
    assert stored <= 0.30 * weights


def test_four_bits_are_within_two_points_of_float(heldout):
    precision = {}
    for name in ("fcos_r18_digits_float", "fcos_r18_digits_4bit"):
        qdq = export_qdq(load_checkpoint(EXAMPLE / "checkpoints" / f"{name}.pt"))
        precision[name] = average_precision(float_runner(qdq), manifest_of(qdq), heldout)
    assert precision["fcos_r18_digits_4bit"] >= precision["fcos_r18_digits_float"] - 2


@pytest.mark.parametrize("shipped", ["fcos_r18_digits_4bit"], indirect=True)
def test_coco_takes_the_results_of_detect_and_finds_the_same_precision(shipped, tmp_path):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    _, _, program = shipped
    file = EXAMPLE / "images" / "annotations.json"
    found = image_files([EXAMPLE / "images"])
    detect_images(program.run, program.manifest, found, tmp_path / "out", annotations=load_annotations(file))
    truth = COCO(str(file))
    evaluation = COCOeval(truth, truth.loadRes(str(tmp_path / "out" / "results.json")), "bbox")
    for step in (evaluation.evaluate, evaluation.accumulate, evaluation.summarize):
        step()
    images = ImageSet.load(found.files, load_annotations(file))
    tensors, placements = images.tensors(program.manifest)
    boxes = detections_of(run_all(program.run, "image", tensors), program.manifest, placements)
    expected = images.average_precision(program.manifest, boxes)["AP"]
    # The same arithmetic in the same order: 1e-9 is room that it does not need.
    assert abs(evaluation.stats[0] - expected) <= 1e-9 and expected > 0.3


@pytest.mark.parametrize("bits", [8, pytest.param(4, marks=pytest.mark.matrix)])
def test_the_shipped_yolo_is_proven_and_finds_digits(bits, tmp_path):
    qdq = export_qdq(load_checkpoint(EXAMPLE / "yolo" / f"yolov2_tiny_digits_{bits}bit.pt"))
    lowered = lower(qdq)
    assert lowered.report["proven"] == lowered.report["requantized_channels"] > 0
    compile_model(lowered.model, tmp_path / "m.so", target="host")
    program, reference = Program.load(tmp_path / "m.so"), ReferenceRunner(lowered.model)
    images = ImageSet.load(
        image_files([EXAMPLE / "images"]).files, load_annotations(EXAMPLE / "images" / "annotations.json")
    )
    tensors, placements = images.tensors(program.manifest)
    for pixels in tensors[:4]:
        expected = reference.run({"image": pixels})
        found = program.run({"image": pixels})
        assert total_difference(compare_integers(expected, found)).differing == 0
    boxes = detections_of(run_all(program.run, "image", tensors), program.manifest, placements)
    assert images.average_precision(program.manifest, boxes)["AP50"] > 0.4
