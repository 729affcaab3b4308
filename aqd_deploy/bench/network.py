"""The network that peers get: the float network behind a QDQ file, an input, and images for calibration.

    folder/float.onnx     weights as the program uses them, dequantized; batch norm folded
    folder/inputs.npz     value: the input float32 [1, 3, H, W]; pixels: uint8 [n, 3, H, W]; mean, std: [3]

A peer's process reads nothing else, so a folder can be kept and used again.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Network:
    """A folder that `write_network` filled."""

    folder: Path

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
        """The input that is timed, float32 [1, 3, H, W]."""
        return self.calibration()[0]

    def calibration(self) -> list[np.ndarray]:
        """(pixel − mean)/std of every image, float32 [1, 3, H, W] each."""
        mean, std = (self.arrays[key].reshape(-1, 1, 1) for key in ("mean", "std"))
        return [((image.astype(np.float32) - mean) / std)[None] for image in self.pixels]


def write_network(qdq: Path, manifest: dict[str, Any], images: np.ndarray | None, folder: Path) -> Network:
    """Fill `folder` from a QDQ file.

    `images` are uint8 [n, 3, H, W] of the network's size; without them, textures of fixed seeds. Raises
    UnsupportedModelError for a file that is not a canonical QDQ file.
    """
    import onnx

    from aqd_deploy.detection.textures import textures
    from aqd_deploy.frontends.strip import strip_quantization
    from aqd_deploy.integer.files import load_onnx

    model = strip_quantization(load_onnx(qdq))
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
