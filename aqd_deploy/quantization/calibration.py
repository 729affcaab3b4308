"""Calibration images: files that become a network's input, or arrays that are it already.

One image at a time is in memory, however many there are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from aqd_deploy.arrays import NPZ_FILE, Rows
from aqd_deploy.detection.image_files import image_files, printable
from aqd_deploy.detection.images import IMAGE_FILE, Preprocess, load_image
from aqd_deploy.errors import CalibrationError
from aqd_deploy.integer.manifest import read_manifest
from aqd_deploy.passes.canonical.input_shapes import inputs_of, sizes_of
from aqd_deploy.quantization.network import INPUT_TYPES, check_inputs

Feed = dict[str, np.ndarray]
FEW_IMAGES = 16
"""Below so many the ranges that are seen depend on which images they are."""
_DETECTOR = "the same command with --detector F.toml, which tells how, or with an .npz file of inputs"


class Calibration:
    """`count` inputs of a network, made again by each `feeds()`; `digest` is a hash of what they are made of.

    A feed is what onnxruntime takes: arrays by input name, each of the input's own shape, with batch 1.
    """

    def __init__(self, count: int, feeds: Callable[[], Iterator[Feed]], digest: str) -> None:
        if not count:
            raise CalibrationError("there are no calibration images", valid="at least one, better 64 or more")
        self.count, self.digest = count, digest
        self._feeds = feeds

    def __len__(self) -> int:
        return self.count

    def feeds(self) -> Iterator[Feed]:
        """Every image in order. Raises CalibrationError for one that holds numbers that aren't finite."""
        for index, feed in enumerate(islice(self._feeds(), self.count)):
            for name, array in feed.items():
                if not np.isfinite(array).all():
                    raise CalibrationError(
                        f"calibration image {index} holds a number that isn't finite", received=name,
                        valid="finite numbers",
                    )  # fmt: skip
            yield feed

    def first(self, count: int) -> Calibration:
        """The first `count` images, or all where there are fewer."""
        return Calibration(min(count, self.count), self._feeds, f"{self.digest}:{count}")

    @classmethod
    def of(cls, feeds: Sequence[Feed]) -> Calibration:
        """Inputs that are in memory."""
        digest = hashlib.sha256()
        for feed in feeds:
            for name in sorted(feed):
                digest.update(name.encode() + np.ascontiguousarray(feed[name]).tobytes())
        return cls(len(feeds), lambda: iter(feeds), digest.hexdigest())

    @classmethod
    def of_arrays(cls, path: Path, model: ModelProto) -> Calibration:
        """An .npz file with an array [N, …] of every input, or a .npy file where there is one input.

        Raises ShapeError for arrays that do not fit the model or are of different lengths, CalibrationError
        for none.
        """
        wanted = {
            value.name: (tuple(sizes_of(value)[1:]), (INPUT_TYPES[value.type.tensor_type.elem_type],))
            for value in inputs_of(model)
        }
        rows = Rows(path, wanted)
        return cls(rows.count, lambda: iter(rows), _digest([path]))

    @classmethod
    def of_images(
        cls, path: Path, model: ModelProto, described: Mapping[str, Any] | None = None
    ) -> Calibration:
        """The images of a folder, or one file, prepared as `described` or the model's manifest says.

        Raises CalibrationError where neither tells how an image becomes the input, or there is none;
        ImageError for a file that is none.
        """
        found = image_files([path])
        for error in found.refused.values():
            raise CalibrationError(error.what, received=printable(path), valid=error.valid) from error
        preprocess = preprocessing(model, described)

        def feeds() -> Iterator[Feed]:
            for file in found.files:
                yield {preprocess.input: preprocess(load_image(file))[0]}

        return cls(len(found.files), feeds, _digest(found.files, repr(preprocess)))


def calibration_of(path: Path, model: ModelProto, described: Mapping[str, Any] | None = None) -> Calibration:
    """The calibration images that a path means: arrays in an .npz or .npy file, else image files. Raises what
    `check_inputs` and the two ways of `Calibration` do.
    """
    check_inputs(model)
    if path.suffix in (".npz", ".npy"):
        return Calibration.of_arrays(path, model)
    return Calibration.of_images(path, model, described)


def preprocessing(model: ModelProto, described: Mapping[str, Any] | None = None) -> Preprocess:
    """How an image becomes the input of a model. An input of floats takes (pixel − mean)/std."""
    manifest = {**read_manifest(model), **(described or {})}
    kinds = {value.name: INPUT_TYPES[value.type.tensor_type.elem_type] for value in inputs_of(model)}
    real: dict[str, dict] = {name: {} for name, kind in kinds.items() if kind == "float32"}
    if manifest.get("preprocessing") is None:
        raise CalibrationError("the file does not tell how an image becomes the network's input",
                               next_command=_DETECTOR)  # fmt: skip
    preprocess = Preprocess.from_manifest({**manifest, "inputs": real})
    shapes = {value.name: sizes_of(value) for value in inputs_of(model)}
    wanted = [1, 3, preprocess.height, preprocess.width]
    if shapes.get(preprocess.input) != wanted or len(shapes) > 1:
        told = ", ".join(f"{name} {sizes}" for name, sizes in shapes.items())
        raise CalibrationError(
            "images do not fit the network's input", received=f"{preprocess.input} {wanted}", valid=told,
            next_command=_DETECTOR,
        )  # fmt: skip
    return preprocess


def _digest(files: Sequence[Path], more: str = "") -> str:
    digest = hashlib.sha256(more.encode())
    for file in files:
        kind = NPZ_FILE if file.suffix in (".npz", ".npy") else IMAGE_FILE
        with kind.open(file) as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())  # type: ignore[arg-type]
    return digest.hexdigest()
