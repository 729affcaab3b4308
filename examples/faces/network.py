"""A Tiny-YOLOv2 face detector with separable convolutions, from an npm package: its weights as float ONNX.

`npm pack @vladmandic/face-api` and `tar xzf` of what it leaves give the folder `package`;
`python examples/faces/network.py package -o faces` writes into `faces` the float network, the description of
the detector, and the package's photographs of people. Nothing is fetched.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import click
import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

SIZE = 416
CELLS = SIZE // 32
SEPARABLE = 5
LEAK = 0.1
ANCHORS = (
    (1.603231, 2.094468),
    (6.041143, 7.080126),
    (2.882459, 3.518061),
    (4.266906, 5.178857),
    (9.041765, 10.66308),
)
"""Width and height in cells."""
MANIFEST = "tiny_face_detector_model-weights_manifest.json"
PHOTOGRAPHS = tuple(f"sample{number}.jpg" for number in range(1, 7))

DESCRIPTION = """\
[preprocessing]
color = "RGB"
pad_value = [0, 0, 0]
mean = [117.001, 114.697, 97.404]
std = [255, 255, 255]

[detector]
kind = "boxes"
classes = ["face"]
outputs = { boxes = ["boxes"], scores = ["scores"] }
score_threshold = 0.05
nms_iou = 0.4
"""


def weights(package: Path) -> dict[str, np.ndarray]:
    """Float32 arrays by name, as TensorFlow.js lays them out: filters [k, k, in, out]; the files hold uint8
    numbers, of each array one after another, that stand for number · scale + min.
    """
    folder = package / "model"
    try:
        (group,) = json.loads((folder / MANIFEST).read_text())
        stored = b"".join((folder / path).read_bytes() for path in group["paths"])
    except OSError as error:
        raise click.ClickException(
            f"{package} is not the unpacked package @vladmandic/face-api: {error}; "
            "npm pack @vladmandic/face-api"
        ) from error
    arrays, place = {}, 0
    for entry in group["weights"]:
        count, quantization = int(np.prod(entry["shape"])), entry["quantization"]
        numbers = np.frombuffer(stored, np.uint8, count, place).astype(np.float32)
        real = numbers * np.float32(quantization["scale"]) + np.float32(quantization["min"])
        arrays[entry["name"]] = real.reshape(entry["shape"])
        place += count
    if place != len(stored):
        raise click.ClickException(f"{folder / MANIFEST} describes {place} bytes, its file has {len(stored)}")
    return arrays


class Network:
    """The nodes and constants of the float network, made front to back."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.arrays = arrays
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def add(self, op: str, inputs: list[str], name: str, **attributes: object) -> str:
        """The output, called like the node."""
        self.nodes.append(helper.make_node(op, inputs, [name], name, **attributes))
        return name

    def constant(self, name: str, array: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def convolution(self, x: str, layer: str, filters: str, *, bias: bool, depthwise: bool = False) -> str:
        """Stride 1, zeros around, as TensorFlow's "same"."""
        axes = (2, 3, 0, 1) if depthwise else (3, 2, 0, 1)
        weight = self.arrays[f"{layer}/{filters}"].transpose(axes)
        name = f"{layer}.{filters}"
        inputs = [x, self.constant(f"{name}.weight", weight)]
        if bias:
            inputs.append(self.constant(f"{layer}.bias", self.arrays[f"{layer}/bias"]))
        side = weight.shape[2]
        group = len(weight) if depthwise else 1
        return self.add(
            "Conv", inputs, name, kernel_shape=[side, side], pads=[side // 2] * 4, group=group
        )  # fmt: skip

    def leaky(self, x: str, layer: str) -> str:
        return self.add("LeakyRelu", [x], f"{layer}.leaky", alpha=LEAK)

    def pool(self, x: str, layer: str, stride: int) -> str:
        """2x2; that of stride 1 is padded right and below, so that its map stays 13x13."""
        pads = [0, 0, 2 - stride, 2 - stride]
        return self.add("MaxPool", [x], f"{layer}.pool", kernel_shape=[2, 2], strides=[stride] * 2, pads=pads)

    def maps(self) -> str:
        """[1, 25, 13, 13]: of each anchor x, y, width, height, score."""
        x = self.leaky(self.convolution("image", "conv0", "filters", bias=True), "conv0")
        x = self.pool(x, "conv0", 2)
        for number in range(1, SEPARABLE + 1):
            layer = f"conv{number}"
            x = self.convolution(x, layer, "depthwise_filter", bias=False, depthwise=True)
            x = self.leaky(self.convolution(x, layer, "pointwise_filter", bias=True), layer)
            x = self.pool(x, layer, 1 if number == SEPARABLE else 2)
        return self.convolution(x, "conv8", "filters", bias=True)

    def decoding(self, maps: str) -> None:
        """`boxes` [845, 4] in pixels and `scores` [845]: a centre lies σ(x, y) behind its cell's corner,
        sides are anchor · e^(w, h), all in cells of 32 pixels.
        """
        cells = np.stack(np.meshgrid(np.arange(CELLS), np.arange(CELLS)), axis=-1).reshape(1, -1, 2)
        x = self.add("Reshape", [maps, self.constant("split", np.array([5, 5, -1]))], "by_anchor")
        x = self.add("Transpose", [x], "by_cell", perm=[0, 2, 1])
        for name, first, last in (("xy", 0, 2), ("wh", 2, 4), ("logit", 4, 5)):
            ends = [self.constant(f"{name}.{k}", np.array([k_])) for k, k_ in (("from", first), ("to", last))]
            self.add("Slice", [x, *ends, self.constant(f"{name}.axis", np.array([2]))], name)
        moved = self.add("Sigmoid", ["xy"], "xy.sigmoid")
        centre = self.add("Add", [moved, self.constant("cells", cells.astype(np.float32))], "centre.cells")
        centre = self.add("Mul", [centre, self.constant("stride", np.float32([32]))], "centre")
        halves = self.constant("halves", (np.array(ANCHORS) * 16).astype(np.float32)[:, None])
        half = self.add("Mul", [self.add("Exp", ["wh"], "wh.exp"), halves], "half")
        corners = [self.add("Sub", [centre, half], "first"), self.add("Add", [centre, half], "last")]
        both = self.add("Concat", corners, "corners", axis=2)
        self.add("Reshape", [both, self.constant("four", np.array([-1, 4]))], "boxes")
        score = self.add("Sigmoid", ["logit"], "logit.sigmoid")
        self.add("Reshape", [score, self.constant("flat", np.array([-1]))], "scores")


def float_network(package: Path) -> ModelProto:
    """Input `image` float32 [1, 3, 416, 416], RGB minus the mean, over 255; outputs `boxes` and `scores`."""
    network = Network(weights(package))
    network.decoding(network.maps())
    count = len(ANCHORS) * CELLS**2
    graph = helper.make_graph(
        network.nodes,
        "tiny_face_detector",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [count, 4]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, [count]),
        ],
        network.constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def write(package: Path, folder: Path) -> None:
    """float.onnx, faces.toml and images/sample1.jpg to sample6.jpg."""
    model = float_network(package)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "float.onnx")
    (folder / "faces.toml").write_text(DESCRIPTION)
    for name in PHOTOGRAPHS:
        shutil.copy(package / "demo" / name, folder / "images" / name)


@click.command()
@click.argument("package", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder to write into.")
def main(package: Path, output: Path) -> None:
    """Write float.onnx, faces.toml and images/ of the unpacked package @vladmandic/face-api."""
    write(package, output)
    click.echo(f"{output}: float.onnx, faces.toml, images/ ({len(PHOTOGRAPHS)} photographs)")


if __name__ == "__main__":
    main()
