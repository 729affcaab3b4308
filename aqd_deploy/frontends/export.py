"""A checkpoint or a named architecture → a QDQ file: the work behind `aqd-deploy export`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aqd_deploy.errors import CheckpointError, MissingExtraError
from aqd_deploy.integer.files import save_onnx

if TYPE_CHECKING:
    from aqd_deploy.qat.sources import Loaded

CHECKPOINT_SUFFIXES = (".pt", ".pth", ".ckpt", ".pkl", ".safetensors")


@dataclass(frozen=True)
class ArchitectureOptions:
    """What a named architecture leaves open: bits of the inner layers, image (height, width), classes,
    width, seed. `image_size` is also that of a checkpoint from elsewhere.
    """

    bits: int = 4
    image_size: tuple[int, int] = (320, 320)
    classes: int = 80
    width: float = 1.0
    seed: int = 0


def load_source(source: str, options: ArchitectureOptions, recipe: Path | None = None) -> Loaded:
    """The detector of a checkpoint file, or of an architecture's name with calibrated random weights.

    A name with a path separator or a checkpoint's suffix is a file. `recipe` is the training's YAML file, for
    checkpoints of Detectron2 and AdelaiDet. Raises CheckpointError, UnsupportedModelError, ShapeError,
    ScaleError, and MissingExtraError where torch is not installed.
    """
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "exporting needs torch", next_command="pip install 'aqd-deploy[torch]'"
        ) from error
    from aqd_deploy.frontends.random_network import random_detector
    from aqd_deploy.qat.config import parse_architecture
    from aqd_deploy.qat.sources import Loaded, load_detector

    path = Path(source)
    if path.is_file() or path.suffix in CHECKPOINT_SUFFIXES or len(path.parts) > 1:
        if path.is_dir():
            raise CheckpointError("a folder is not a checkpoint", received=source, valid="a .pt file")
        return load_detector(path, recipe, options.image_size)
    if recipe is not None:
        raise CheckpointError(
            "an architecture's name has no training configuration", received=f"{source} with {recipe}",
            valid="--config with a checkpoint", next_command="the same command without --config",
        )  # fmt: skip
    height, width = options.image_size
    config = parse_architecture(
        source, bits=options.bits, image_height=height, image_width=width, classes=options.classes,
        width=options.width,
    )  # fmt: skip
    return Loaded(random_detector(config, options.seed), None)


def export_source(
    source: str, output: Path, options: ArchitectureOptions, progress: Callable[[str], None] = lambda _: None,
    recipe: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Write the QDQ file of `source` to `output` (whole or not at all) and return a JSON-able summary of
    it; `recipe` as in `load_source`. A float network gives a file without quantizers. For a checkpoint from
    elsewhere, `origin` in the summary says what became of each of its tensors.
    """
    from aqd_deploy.frontends.torch_qdq import export_qdq

    started = time.perf_counter()
    progress(f"loading {source}")
    detector, origin = load_source(source, options, recipe)
    progress("exporting")
    qdq = export_qdq(detector)
    save_onnx(qdq, output)
    return {
        "file": str(output),
        "name": qdq.graph.name,
        "nodes": len(qdq.graph.node),
        "bytes": output.stat().st_size,
        "seconds": round(time.perf_counter() - started, 3),
        **({} if origin is None else {"origin": asdict(origin)}),
    }
