"""MNN: the float network by its converter, and INT8 by its offline quantizer.

The converter and the quantizer are called in the extension module `_tools`. Their Python wrappers in
`MNN.tools` must not be imported: they run `pip install` and call a server when they are. 8-bit weights alone
(`--weightQuantBits`) are not an INT8 network: convolutions multiply floats.
"""

from __future__ import annotations

import json
from pathlib import Path

from aqd_deploy.bench.network import Network
from aqd_deploy.bench.peers.contract import INSTALL_PEERS, Conversion, Opened, Peer, Variant
from aqd_deploy.errors import PeerError

_FLOAT, _INT8 = "float.mnn", "int8.mnn"


def _convert(network: Network, folder: Path) -> None:
    """`mnnconvert -f ONNX`."""
    import _tools

    target = folder / _FLOAT
    _tools.mnnconvert(
        ["mnnconvert", "-f", "ONNX", "--modelFile", str(network.float_model), "--MNNModel", str(target)]
    )
    if not target.exists():
        raise PeerError("mnnconvert wrote no model")


def _quantize(network: Network, folder: Path) -> None:
    """`mnnquant` with its defaults: activations by KL divergence, weights by their largest magnitude."""
    import _tools
    from PIL import Image

    _convert(network, folder)
    images = folder / "images"
    images.mkdir()
    for index, image in enumerate(network.pixels):
        Image.fromarray(image.transpose(1, 2, 0)).save(images / f"{index}.png")
    _, height, width = network.pixels.shape[1:]
    settings = {
        "format": "RGB",
        "mean": network.arrays["mean"].tolist(),
        "normal": (1 / network.arrays["std"]).tolist(),
        "width": width,
        "height": height,
        "path": f"{images}/",
        "used_image_num": len(network.pixels),
        "feature_quantize_method": "KL",
        "weight_quantize_method": "MAX_ABS",
    }
    config = folder / "quantizer.json"
    config.write_text(json.dumps(settings), encoding="utf-8")
    _tools.mnnquant(["mnnquant", str(folder / _FLOAT), str(folder / _INT8), str(config)])
    (folder / _FLOAT).unlink()
    for path in images.iterdir():
        path.unlink()
    images.rmdir()
    if not (folder / _INT8).exists():
        raise PeerError("mnnquant wrote no model")


def _open(path: Path, network: Network, threads: int, precision: str = "normal") -> Opened:
    import MNN

    interpreter = MNN.Interpreter(str(path))
    session = interpreter.createSession({"backend": "CPU", "numThread": threads, "precision": precision})
    target = interpreter.getSessionInput(session)
    value = network.value
    source = MNN.Tensor(value.shape, MNN.Halide_Type_Float, value, MNN.Tensor_DimensionType_Caffe)
    interpreter.resizeTensor(target, value.shape)
    interpreter.resizeSession(session)
    outputs = interpreter.getSessionOutputAll(session)

    def run() -> object:
        target.copyFrom(source)
        if interpreter.runSession(session):
            raise PeerError("MNN could not run the network")
        return outputs

    return Opened(run)


PEER = Peer(
    "mnn",
    ("MNN", "_tools"),
    ("mnn",),
    INSTALL_PEERS,
    (
        Variant(
            "float",
            "float32, by mnnconvert (precision high)",
            Conversion("mnn-float", ("mnn",), _convert),
            lambda folder, network, threads: _open(folder / _FLOAT, network, threads, "high"),
        ),
        Variant(
            "int8",
            "INT8 by mnnquant",
            Conversion("mnn-int8", ("mnn", "pillow"), _quantize),
            lambda folder, network, threads: _open(folder / _INT8, network, threads),
        ),
    ),
)
