"""Reading and writing ONNX files: every way a file can be wrong ends in a sentence, and nothing is left
half-written.
"""

from __future__ import annotations

import os
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import ModelProto, TensorProto
from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_tensor

from aqd_deploy.errors import ModelFileError
from aqd_deploy.files import replacing

MAX_BYTES = 2 * 1024**3 - 1
"""Protobuf's limit for one message."""


def load_onnx(path: str | os.PathLike[str]) -> ModelProto:
    """The model of an ONNX file, its external data loaded into it.

    Raises ModelFileError for a file that is missing, no regular file, larger than 2 GB, truncated or not
    ONNX, or whose external data is missing, too short or outside the file's folder (also by a symbolic
    link).
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise ModelFileError(f"{path} isn't a file", valid="an ONNX file")
        if size > MAX_BYTES:
            raise ModelFileError(
                f"{path} is larger than an ONNX file can be",
                received=f"{size} bytes",
                valid="up to 2 GB; keep weights as external data",
            )
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise ModelFileError(f"there is no file {path}") from error
    except OSError as error:
        raise ModelFileError(f"{path} can't be read: {error.strerror}") from error
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise ModelFileError(f"{path} isn't an ONNX file, or it is truncated") from error
    if not model.HasField("graph") or not model.opset_import or not model.graph.node:
        raise ModelFileError(f"{path} isn't an ONNX model", received=f"{size} bytes without a graph")
    for tensor in _tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL:
            _load_external(tensor, path)
    return model


def _tensors(model: ModelProto) -> list[TensorProto]:
    """Every tensor of the graph, those in node attributes included."""
    found = list(model.graph.initializer)
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                found.append(attribute.t)
            found.extend(attribute.tensors)
    return found


def _load_external(tensor: TensorProto, path: Path) -> None:
    info = ExternalDataInfo(tensor)
    folder = path.parent.resolve()
    location = Path(info.location)
    target = (folder / location).resolve()
    if location.is_absolute() or not target.is_relative_to(folder):
        raise ModelFileError(
            f"{path}: the external data of {tensor.name} is outside the model's folder",
            received=info.location,
            valid=f"a file below {folder}",
        )
    if not target.is_file():
        raise ModelFileError(f"{path}: the external data file {info.location} is missing")
    start = info.offset or 0
    length = info.length or 0
    if start < 0 or length < 0 or start + length > target.stat().st_size:
        raise ModelFileError(f"{path}: the external data file {info.location} is too short for {tensor.name}")
    try:
        load_external_data_for_tensor(tensor, str(folder))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelFileError(f"{path}: the external data of {tensor.name} can't be read: {error}") from error
    tensor.data_location = TensorProto.DEFAULT
    del tensor.external_data[:]


def save_onnx(model: ModelProto, path: str | os.PathLike[str]) -> None:
    """Writes the model under a temporary name in the same folder and renames it.

    Raises ModelFileError for a model over 2 GB, a missing folder or a full disk; then the old file, if any,
    is unchanged and nothing new is left.
    """
    path = Path(path)
    try:
        data = model.SerializeToString(deterministic=True)
    except (ValueError, EncodeError) as error:
        raise ModelFileError(f"{path}: the model is larger than 2 GB", valid="up to 2 GB") from error
    if len(data) > MAX_BYTES:
        raise ModelFileError(f"{path}: the model is larger than 2 GB", received=f"{len(data)} bytes")
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise ModelFileError(f"{path} can't be written: {error.strerror}") from error
