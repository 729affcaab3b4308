"""What is exported computes what Darknet does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from darknet_files import YOLOV2_TINY, YOLOV3_BLOCKS, YOLOV3_TINY, DarknetNetwork, reorged, yolov2
from float64_reference import Float64Network
from small_models import runnable_targets

from aqd_deploy.compiler import compile_model
from aqd_deploy.frontends.darknet.export import darknet_model
from aqd_deploy.integer.manifest import read_manifest
from aqd_deploy.integer.reference import ReferenceRunner
from aqd_deploy.passes.pipeline import lower
from aqd_deploy.quantization.calibration import calibration_of
from aqd_deploy.quantization.pipeline import quantize
from aqd_deploy.runtime import Program

NETWORKS = {
    "yolov3-tiny": YOLOV3_TINY, "blocks": YOLOV3_BLOCKS, "reorg": reorged(64), "odd reorg": reorged(56),
    "yolov2-tiny": YOLOV2_TINY,
}  # fmt: skip


def outputs_of(model: onnx.ModelProto, pixels: np.ndarray) -> list[np.ndarray]:
    """By onnxruntime in float32."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run([value.name for value in model.graph.output], {"image": pixels[None]})


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("header", [(0, 1, 0), (0, 2, 5)], ids=["seen of 4 bytes", "seen of 8 bytes"])
def test_it_computes_what_darknet_computes(name, header, tmp_path):
    network = DarknetNetwork(NETWORKS[name])
    model = darknet_model(*network.write(tmp_path, header))
    side = int(network.sections[0][1]["height"])
    pixels = np.random.default_rng(1).integers(0, 256, (3, side, side), np.uint8)
    expected = network.forward(pixels / 255)
    found = outputs_of(model, pixels)
    assert len(found) == len(expected)
    for each, wanted in zip(found, expected, strict=True):
        # onnxruntime sums in float32.
        assert np.abs(each[0] - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_it_is_exact_but_for_the_variance(tmp_path):
    """In float64 what differs is (√v + ε)² and 1/255 as float32."""
    network = DarknetNetwork(YOLOV3_BLOCKS.replace("mish", "leaky").replace("swish", "leaky"))
    model = darknet_model(*network.write(tmp_path))
    pixels = np.random.default_rng(2).integers(0, 256, (3, 32, 32), np.uint8)
    (wanted,) = network.forward(pixels.astype(np.float64) * np.float32(1 / 255))
    found = Float64Network(model).outputs({"image": pixels[None]})["map_0"][0]
    assert np.abs(found - wanted).max() < 1e-6 * np.abs(wanted).max()


def quantized_of(text: str, folder: Path) -> tuple[onnx.ModelProto, np.ndarray]:
    """QDQ, and the four images that it was calibrated by."""
    network = DarknetNetwork(text)
    model = darknet_model(*network.write(folder))
    side = int(network.sections[0][1]["height"])
    images = np.random.default_rng(3).integers(0, 256, (4, 3, side, side), np.uint8)
    np.savez(folder / "x.npz", image=images)
    return quantize(model, calibration_of(folder / "x.npz", model, {})).model, images


@pytest.mark.parametrize("name", ["yolov2-tiny", "blocks", "reorg", "odd reorg"])
def test_quantized_it_is_lowered(name, tmp_path):
    """With the strides that its manifest tells, also behind an order of elements of its own."""
    quantized, images = quantized_of(NETWORKS[name], tmp_path)
    integer = lower(quantized).model
    assert ("Rearrange" in [node.op_type for node in integer.graph.node]) == ("reorg" in name)
    # Streams are rounded, so a code may be another; a pixel or channel in a wrong place is off by far more.
    expected = Float64Network(quantized).outputs({"image": images[:1]})["map_0"]
    found = ReferenceRunner(integer, 1).run({"image": images[:1]})["map_0"]
    scale = np.reshape(read_manifest(integer)["outputs"]["map_0"]["scale"], (1, -1, 1, 1))
    step = np.abs(expected).max() / 127
    assert np.abs(found * scale - expected).max() < step


@pytest.mark.parametrize("target", runnable_targets()[:1])
@pytest.mark.parametrize(
    "text",
    [
        pytest.param(NETWORKS["odd reorg"], id="an order that is no other word of the dialect"),
        pytest.param(yolov2(416, 1 / 8), id="yolov2 of 416 pixels", marks=pytest.mark.matrix),
    ],
)
def test_a_program_of_it_gives_the_same_integers(target, text, tmp_path):
    quantized, images = quantized_of(text, tmp_path)
    integer = lower(quantized).model
    compile_model(integer, tmp_path / "p.so", target=target, threads=2)
    program, reference = Program.load(tmp_path / "p.so"), ReferenceRunner(integer, 1)
    for image in images[:, None]:
        found, expected = program.run({"image": image}), reference.run({"image": image})
        np.testing.assert_array_equal(found["map_0"], expected["map_0"])
