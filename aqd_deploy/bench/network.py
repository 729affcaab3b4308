"""The network that peers get: the float network behind a QDQ file, an input, and images for calibration; or
the QDQ file of another writer as it is, whose quantizers clip where the float network has activations.

    folder/float.onnx      weights as the program uses them, dequantized; batch norm folded
    folder/quantized.onnx  in its place, a QDQ file whose input is float
    folder/inputs.npz      pixels: uint8 [n, 3, H, W]; mean, std: [3]; of a quantized file value: the input
                           float32 [1, …]; codes: the integers that it stands for

A peer's process reads nothing else, so a folder can be kept and used again.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.runtime.reals import dequantized

if TYPE_CHECKING:
    from onnx import ModelProto


@dataclass(frozen=True)
class Network:
    """A folder that `write_network` filled."""

    folder: Path

    @property
    def is_quantized(self) -> bool:
        """Whether peers get a quantized file as it is."""
        return self.quantized_model.exists()

    @property
    def quantized_model(self) -> Path:
        """The QDQ file of another writer; there is one or `float_model`."""
        return self.folder / "quantized.onnx"

    @property
    def model(self) -> Path:
        """The file that there is."""
        return self.quantized_model if self.is_quantized else self.float_model

    @property
    def float_model(self) -> Path:
        """The float ONNX file; its input is `image`, float32 [1, 3, H, W]."""
        return self.folder / "float.onnx"

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """What inputs.npz holds."""
        with np.load(self.folder / "inputs.npz") as stored:
            return {name: stored[name] for name in stored.files}

    @property
    def pixels(self) -> np.ndarray:
        """Calibration images uint8 [n, 3, H, W]; the first is the input that is timed."""
        return self.arrays["pixels"]

    @property
    def value(self) -> np.ndarray:
        """The input that is timed, float32 [1, …]."""
        return self.arrays["value"] if self.is_quantized else self.calibration()[0]

    @property
    def codes(self) -> np.ndarray:
        """The same for the program, uint8 or int8 [1, …]."""
        return self.arrays["codes"] if self.is_quantized else self.pixels[:1]

    def calibration(self) -> list[np.ndarray]:
        """(pixel − mean)/std of every image, float32 [1, 3, H, W] each."""
        mean, std = (self.arrays[key].reshape(-1, 1, 1) for key in ("mean", "std"))
        return [((image.astype(np.float32) - mean) / std)[None] for image in self.pixels]


def write_network(qdq: Path, manifest: dict[str, Any], images: np.ndarray | None, folder: Path) -> Network:
    """Fill `folder` from a QDQ file.

    `images` are uint8 [n, 3, H, W] of the network's size; without them, textures of fixed seeds. A file
    whose input is float gets any codes of its input's quantizer, and the floats that they stand for. Raises
    UnsupportedModelError for another file that is not a canonical QDQ file, and where a quantized file has
    more inputs or an open shape, or an image is given for it.
    """
    import onnx

    from aqd_deploy.detection.textures import textures
    from aqd_deploy.frontends.strip import strip_quantization
    from aqd_deploy.integer.files import load_onnx

    loaded = load_onnx(qdq)
    if any(value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT for value in loaded.graph.input):
        if images is not None:
            raise UnsupportedModelError(
                "a file whose input is float is timed on codes of its quantizer, not on an image",
                received=str(qdq),
                next_command="aqd-deploy bench PROGRAM --against onnxruntime",
            )
        return _write_quantized(qdq, loaded, manifest, folder)
    model = strip_quantization(loaded)
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    entry = manifest.get("preprocessing", {})
    onnx.save(model, folder / "float.onnx")
    np.savez(
        folder / "inputs.npz",
        pixels=textures(2, shape[2], shape[3]) if images is None else images,
        mean=np.asarray(entry.get("mean", [0] * shape[1]), np.float32),
        std=np.asarray(entry.get("std", [1] * shape[1]), np.float32),
    )
    return Network(folder)


def _write_quantized(qdq: Path, model: ModelProto, manifest: dict[str, Any], folder: Path) -> Network:
    """The second form."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    shape = [d.dim_value for value in inputs for d in value.type.tensor_type.shape.dim]
    entries = list(manifest.get("inputs", {}).values())
    if len(inputs) != 1 or len(entries) != 1 or 0 in shape or shape[0] != 1:
        raise UnsupportedModelError(
            "peers are timed on files with one input of a fixed shape, batch 1",
            received=f"{qdq}: {len(inputs)} inputs, shape {shape}",
            next_command="aqd-deploy bench PROGRAM",
        )
    (entry,) = entries
    limits = np.iinfo(entry["dtype"])
    codes = np.random.default_rng(0).integers(limits.min, limits.max + 1, shape).astype(limits.dtype)
    shutil.copyfile(qdq, folder / "quantized.onnx")
    np.savez(folder / "inputs.npz", codes=codes, value=dequantized(inputs[0].name, codes, entry))
    return Network(folder)
