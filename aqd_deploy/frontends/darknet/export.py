"""A Darknet cfg with its weights → a float ONNX file that says of itself how to detect with it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx

from aqd_deploy.detection.detectors import detector_named
from aqd_deploy.errors import CheckpointError, ModelFileError, UnsupportedModelError
from aqd_deploy.frontends.darknet.cfg import Section, read_cfg
from aqd_deploy.frontends.darknet.heads import detector_entry
from aqd_deploy.frontends.darknet.layers import add_layer
from aqd_deploy.frontends.darknet.network import FeatureMap, Network
from aqd_deploy.frontends.darknet.weights import Weights
from aqd_deploy.frontends.graph import GraphBuilder
from aqd_deploy.inputs import MIB, FileKind
from aqd_deploy.integer.files import save_onnx
from aqd_deploy.integer.manifest import MANIFEST_KEY, SCHEMA

NAMES_FILE = FileKind("file of class names", "a text file with a name a line", MIB, ModelFileError)
PAD = 128
"""Darknet surrounds images with 0.5; of pixels 127.5 there are none."""
_THRESHOLDS = {"score_threshold": 0.05, "max_detections": 100, "pre_nms": 1000}
_LARGEST_SIDE = 4096


def export_darknet(
    cfg: Path,
    weights: Path,
    output: Path,
    *,
    names: Path | None = None,
    image_size: tuple[int, int] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Write the float ONNX file of a Darknet network to `output`, whole or not at all, and return a JSON-able
    summary of it; `names` has a class's name a line, `image_size` is (height, width) in the place of [net]'s.

    Raises ModelFileError, UnsupportedModelError and CheckpointError with the line of the cfg or the byte of
    the weights.
    """
    started = time.perf_counter()
    progress(f"loading {cfg}")
    classes = None if names is None else read_names(names)
    model = darknet_model(cfg, weights, classes, image_size)
    save_onnx(model, output)
    return {
        "file": str(output),
        "name": model.graph.name,
        "nodes": len(model.graph.node),
        "bytes": output.stat().st_size,
        "seconds": round(time.perf_counter() - started, 3),
    }


def read_names(path: Path) -> list[str]:
    """The names of classes, one a line. Raises ModelFileError."""
    try:
        lines = NAMES_FILE.read(path).decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ModelFileError(f"{path} is not a text file", received=error, valid=NAMES_FILE.valid) from error
    return [line.strip() for line in lines if line.strip()]


def darknet_model(
    cfg: Path, weights: Path, names: Sequence[str] | None = None, image_size: tuple[int, int] | None = None
) -> onnx.ModelProto:
    """The float ONNX model of a Darknet network. Input `image` is uint8 [1, 3, H, W], RGB, and stands for
    pixel/255. Raises what `export_darknet` raises.
    """
    net, sections = read_cfg(cfg)
    height, width = image_size or (_side(net, "height"), _side(net, "width"))
    channels = net.whole("channels", 3)
    if channels != 3:
        raise UnsupportedModelError(
            f"{net.place} takes images that are not of three colours", received=f"channels={channels}",
            valid="channels=3",
        )  # fmt: skip
    graph = GraphBuilder(cfg.stem)
    image = FeatureMap(graph.image([0, 0, 0], [255.0] * 3, height, width), 3, height, width)
    network = Network(graph, Weights(weights), image)
    for section in sections:
        add_layer(section, network)
    network.weights.check_end()
    manifest = _manifest(network, cfg, names, (height, width))
    return graph.model({MANIFEST_KEY: json.dumps(manifest)})


def _side(net: Section, key: str) -> int:
    return net.whole(key, None, 1, _LARGEST_SIDE)


def _manifest(
    network: Network, cfg: Path, names: Sequence[str] | None, size: tuple[int, int]
) -> dict[str, Any]:
    """The manifest; what the heads read becomes the graph's outputs."""
    if not network.heads:
        raise UnsupportedModelError(
            f"{cfg} has no head that says where boxes are", received="neither [region] nor [yolo]",
            valid="a detector such as yolov2-tiny-voc.cfg",
        )  # fmt: skip
    outputs = [f"map_{index}" for index in range(len(network.heads))]
    detector = detector_entry(network.heads, network.image, outputs, names)
    for head, name in zip(network.heads, outputs, strict=True):
        _output(network.graph, head.map, name)
    return {
        "schema": SCHEMA,
        "name": cfg.stem,
        "preprocessing": {
            "input": "image", "height": size[0], "width": size[1], "color": "RGB", "resize": "letterbox",
            "pad_value": [PAD] * 3, "mean": [0, 0, 0], "std": [255, 255, 255],
        },
        "detector": {**_THRESHOLDS, "nms_iou": detector_named(detector["kind"]).nms_iou, **detector},
    }  # fmt: skip


def _output(graph: GraphBuilder, x: FeatureMap, name: str) -> None:
    """Make a map an output; one that is read inside keeps its name there."""
    inside = any(x.name in node.input for node in graph.nodes)
    made = graph.add("Identity", [x.name], f"{name}_copy") if inside else x.name
    graph.output(made, name, [1, x.channels, x.height, x.width])


def weights_of(cfg: Path, weights: Path | None) -> Path:
    """The weights' file. Raises CheckpointError where none was named."""
    if weights is None:
        raise CheckpointError(
            "a Darknet cfg says nothing of the weights", received=str(cfg), valid="--weights FILE.weights",
            next_command=f"aqd-deploy export {cfg} --weights {cfg.with_suffix('.weights').name} -o m.onnx",
        )  # fmt: skip
    return weights
