"""A detector that decodes its own boxes, quantized by onnxruntime: the decoding is its tail, and `detect`
finds the boxes that the quantized file means.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from float64_reference import Float64Network
from PIL import Image

from aqd_deploy.cli.main import invoke

torch = pytest.importorskip("torch")

SIDE, STRIDE = 32, 8
MEAN, STD = 127.5, 60.0
DESCRIPTION = f"""
[preprocessing]
color = "RGB"
pad_value = [0, 0, 0]
mean = [{MEAN}, {MEAN}, {MEAN}]
std = [{STD}, {STD}, {STD}]

[detector]
kind = "boxes"
classes = ["a", "b", "c"]
outputs = {{ boxes = ["boxes"], scores = ["scores"], labels = ["labels"] }}
score_threshold = 0.0
"""


class Detector(torch.nn.Module):
    """Cells of 8 pixels, each with the distances to the sides of a box and three classes."""

    def __init__(self) -> None:
        super().__init__()
        layers = []
        for inner, outer in ((3, 8), (8, 16), (16, 16)):
            layers += [torch.nn.Conv2d(inner, outer, 3, stride=2, padding=1), torch.nn.ReLU()]
        self.body = torch.nn.Sequential(*layers)
        self.head = torch.nn.Conv2d(16, 7, 1)
        cells = torch.arange(SIDE // STRIDE) * STRIDE + STRIDE / 2
        y, x = torch.meshgrid(cells, cells, indexing="ij")
        self.centres = torch.stack([x.flatten(), y.flatten()], dim=1)

    def forward(self, image):
        maps = self.head(self.body(image)).flatten(2)[0].T
        distances = maps[:, :4].sigmoid() * 16
        boxes = torch.cat([self.centres - distances[:, :2], self.centres + distances[:, 2:]], dim=1)
        scores, labels = maps[:, 4:].sigmoid().max(dim=1)
        return boxes, scores, labels


class _Images:
    """Calibration data for onnxruntime."""

    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        images = [{"image": generator.normal(size=(1, 3, SIDE, SIDE)).astype(np.float32)} for _ in range(8)]
        self._images = iter(images)

    def get_next(self):
        return next(self._images, None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """`m.qdq.onnx`, a program `m.so` with its tail, an image `i.png` and the description `d.toml`."""
    from onnxruntime.quantization import QuantFormat, quantize_static

    path = tmp_path_factory.mktemp("detector")
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Detector().eval(), (torch.zeros(1, 3, SIDE, SIDE),), str(path / "m.onnx"), dynamo=False,
            input_names=["image"], output_names=["boxes", "scores", "labels"], opset_version=17,
        )  # fmt: skip
    quantize_static(
        str(path / "m.onnx"), str(path / "m.qdq.onnx"), _Images(), quant_format=QuantFormat.QDQ,
        per_channel=True, op_types_to_quantize=["Conv", "Relu"],
    )  # fmt: skip
    words = ["compile", str(path / "m.qdq.onnx"), "-o", str(path / "m.so"), "--threads", "1"]
    assert invoke(words) == 0
    pixels = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    Image.fromarray(pixels).save(path / "i.png")
    (path / "d.toml").write_text(DESCRIPTION)
    return path


def meaning(folder: Path) -> dict[str, np.ndarray]:
    """The boxes that the quantized file means for the image."""
    pixels = np.asarray(Image.open(folder / "i.png")).transpose(2, 0, 1)[None]
    image = ((pixels - MEAN) / STD).astype(np.float32)
    return Float64Network(onnx.load(folder / "m.qdq.onnx")).outputs({"image": image})


def test_the_decoding_is_the_tail(folder, capsys):
    assert invoke(["inspect", str(folder / "m.so"), "--json"]) == 0
    tail = json.loads(capsys.readouterr().out)["tail"]
    assert set(tail["outputs"]) == {"boxes", "scores", "labels"}
    assert {"Sigmoid", "Concat"} <= set(tail["operators"]) and "Conv" not in tail["operators"]


def test_detect_finds_what_the_file_means(folder):
    words = ["detect", str(folder / "m.so"), str(folder / "i.png"), "-o", str(folder / "found")]
    assert invoke([*words, "--detector", str(folder / "d.toml")]) == 0
    results = json.loads((folder / "found" / "results.json").read_text())
    expected = meaning(folder)
    order = np.argsort(-expected["scores"], kind="stable")
    boxes = np.clip(expected["boxes"][order], 0, SIDE)
    assert len(results) == (SIDE // STRIDE) ** 2
    # The tail is float32, and results are rounded to six and three places.
    scores = [record["score"] for record in results]
    assert np.allclose(scores, expected["scores"][order], atol=2e-6)
    sizes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    assert np.allclose([record["bbox"] for record in results], sizes, atol=2e-3)
    assert [record["category_id"] for record in results] == expected["labels"][order].tolist()
