"""The face detector of the npm package, with made-up weights: its ONNX is what torch computes, and comparing
finds what was changed.
"""

import json
import sys
from pathlib import Path

import click
import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "faces"
sys.path.insert(0, str(FOLDER))
import compare  # noqa: E402
import network  # noqa: E402

CHANNELS = (3, 4, 8, 8, 8, 8, 8)


def _shapes():
    yield "conv0/filters", [3, 3, 3, CHANNELS[1]]
    yield "conv0/bias", [CHANNELS[1]]
    for number in range(1, 6):
        yield f"conv{number}/depthwise_filter", [3, 3, CHANNELS[number], 1]
        yield f"conv{number}/pointwise_filter", [1, 1, *CHANNELS[number : number + 2]]
        yield f"conv{number}/bias", [CHANNELS[number + 1]]
    yield "conv8/filters", [1, 1, CHANNELS[-1], 25]
    yield "conv8/bias", [25]


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """An unpacked package with random numbers, and photographs of noise."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("npm") / "package"
    (folder / "model").mkdir(parents=True)
    (folder / "demo").mkdir()
    entries, stored = [], b""
    for name, shape in _shapes():
        scale = 2 / 255 if name.endswith("bias") else 4 / 255 / np.sqrt(np.prod(shape[:-1]))
        quantization = {"dtype": "uint8", "scale": scale, "min": -scale * 127}
        entries.append({"name": name, "shape": shape, "dtype": "float32", "quantization": quantization})
        stored += rng.integers(0, 256, int(np.prod(shape)), np.uint8).tobytes()
    manifest = [{"weights": entries, "paths": ["weights.bin"]}]
    (folder / "model" / network.MANIFEST).write_text(json.dumps(manifest))
    (folder / "model" / "weights.bin").write_bytes(stored)
    for name in network.PHOTOGRAPHS:
        noise = rng.integers(0, 256, (90, 120, 3), np.uint8)
        Image.fromarray(noise).save(folder / "demo" / name, quality=95)
    return folder


def _torch_outputs(package, image):
    """Boxes [845, 4] and scores [845], anchor by anchor, cell by cell, in float64."""
    arrays = {name: torch.from_numpy(array).double() for name, array in network.weights(package).items()}
    pad = nn.ZeroPad2d((0, 1, 0, 1))
    x = F.conv2d(image, arrays["conv0/filters"].permute(3, 2, 0, 1), arrays["conv0/bias"], padding=1)
    x = F.max_pool2d(F.leaky_relu(x, 0.1), 2)
    for number in range(1, 6):
        depthwise = arrays[f"conv{number}/depthwise_filter"].permute(2, 3, 0, 1)
        x = F.conv2d(x, depthwise, padding=1, groups=x.shape[1])
        pointwise = arrays[f"conv{number}/pointwise_filter"].permute(3, 2, 0, 1)
        x = F.leaky_relu(F.conv2d(x, pointwise, arrays[f"conv{number}/bias"]), 0.1)
        # Less than all that leaky ReLU gives, as the padding of a maximum is.
        x = F.max_pool2d(pad(x + 1e3) - 1e3, 2, 1) if number == 5 else F.max_pool2d(x, 2)
    maps = F.conv2d(x, arrays["conv8/filters"].permute(3, 2, 0, 1), arrays["conv8/bias"])[0]
    boxes, scores = [], []
    for anchor, (width, height) in enumerate(network.ANCHORS):
        dx, dy, w, h, score = maps[5 * anchor : 5 * anchor + 5]
        for row in range(13):
            for column in range(13):
                x = (column + dx[row, column].sigmoid()) * 32
                y = (row + dy[row, column].sigmoid()) * 32
                half = w[row, column].exp() * width * 16, h[row, column].exp() * height * 16
                boxes.append([x - half[0], y - half[1], x + half[0], y + half[1]])
                scores.append(score[row, column].sigmoid())
    return np.array(boxes, float), np.array(scores, float)


def test_the_network_is_what_torch_computes(package, tmp_path):
    """To 1e-3 pixels and 1e-5 of a score: float32 against float64."""
    network.write(package, tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / "float.onnx", providers=["CPUExecutionProvider"])
    image = np.random.default_rng(1).normal(size=(1, 3, 416, 416)).astype(np.float32)
    boxes, scores = session.run(None, {"image": image})
    expected_boxes, expected_scores = _torch_outputs(package, torch.from_numpy(image).double())
    np.testing.assert_allclose(scores, expected_scores, atol=1e-5)
    np.testing.assert_allclose(boxes, expected_boxes, rtol=1e-5, atol=1e-3)


def test_what_is_found_is_compared_with_the_float_network(package, tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "MOST", 20)
    network.write(package, tmp_path)
    files = {k + 1: tmp_path / "images" / name for k, name in enumerate(network.PHOTOGRAPHS)}
    faces = compare.truth(tmp_path, files)["annotations"]
    assert faces
    found = tmp_path / "found"
    found.mkdir()
    listed = [{"id": number, "file_name": f"images/{path.name}"} for number, path in files.items()]
    (found / "images.json").write_text(json.dumps({"images": listed}))

    def precision(boxes):
        results = [{**box, "score": 0.9 - 1e-3 * k} for k, box in enumerate(boxes)]
        (found / "results.json").write_text(json.dumps(results))
        return compare.compare(tmp_path, found)

    assert precision(faces) == {"faces": len(faces), "AP50": 1, "AP75": 1, "AP": 1}
    moved = [{**each, "bbox": [x + 2000, y, w, h]} for each in faces for x, y, w, h in [each["bbox"]]]
    assert precision(moved)["AP50"] == 0


def test_a_folder_that_is_no_package_is_refused(package, tmp_path):
    with pytest.raises(click.ClickException, match="npm pack @vladmandic/face-api"):
        network.weights(tmp_path)
    stored = package / "model" / "weights.bin"
    (tmp_path / "model").mkdir()
    for path in (stored, package / "model" / network.MANIFEST):
        (tmp_path / "model" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model" / stored.name).write_bytes(stored.read_bytes() + b"?")
    with pytest.raises(click.ClickException, match=r"describes .* bytes, its file has"):
        network.weights(tmp_path)
