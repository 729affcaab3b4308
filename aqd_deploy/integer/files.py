"""Reading and writing ONNX files: every way a file can be wrong ends in a sentence, and nothing is left
half-written.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from google.protobuf.message import DecodeError, EncodeError
from onnx import ModelProto, TensorProto

from aqd_deploy.errors import ModelFileError
from aqd_deploy.files import failure, replacing
from aqd_deploy.inputs import FileKind
from aqd_deploy.integer import wellformed

MAX_BYTES = 2 * 1024**3 - 1
"""Protobuf's limit for one message."""
_ONNX_FILE = FileKind("ONNX file", "an ONNX file, larger weights as external data", MAX_BYTES, ModelFileError)
_EXTERNAL_FILE = FileKind("external data file", "a file beside the model", 1 << 36, ModelFileError)


def load_onnx(path: str | os.PathLike[str]) -> ModelProto:
    """The model of an ONNX file, its external data loaded into it.

    Raises ModelFileError for a file that is missing, no regular file, larger than 2 GB, truncated or not
    ONNX, not well-formed (`wellformed`: names, attributes, tensors that are not what they say), or whose
    external data is missing, too short, too large or outside the file's folder (also by a symbolic link).
    """
    path = Path(path)
    return parse_onnx(_ONNX_FILE.read(path), path)


def parse_onnx(data: bytes, path: Path) -> ModelProto:
    """The model in `data`, the bytes of the file `path`. Raises what `load_onnx` raises of a file's
    content.
    """
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise ModelFileError(f"{path} isn't an ONNX file, or it is truncated") from error
    if not model.HasField("graph") or not model.opset_import or not model.graph.node:
        raise ModelFileError(f"{path} isn't an ONNX model", received=f"{len(data)} bytes without a graph")
    wellformed.check_structure(model, str(path))
    room = MAX_BYTES - len(data)
    for tensor in wellformed.tensors_of(model):
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            room -= _load_external(tensor, path, room)
        wellformed.check_tensor(tensor, str(path))
    return model


def _load_external(tensor: TensorProto, path: Path, room: int) -> int:
    """Take the data of `tensor` into it; its bytes, which are at most `room`."""
    told = {entry.key: entry.value for entry in tensor.external_data}
    what = f"{path}: the external data of {tensor.name}"
    size = wellformed.data_bytes(tensor, str(path))
    start, length = (
        _number(told.get(key, default), key, what)
        for key, default in (("offset", "0"), ("length", str(size)))
    )
    if len(told) != len(tensor.external_data) or not told.get("location"):
        raise ModelFileError(f"{what} has no location, or two", received=", ".join(told) or "nothing")
    if tensor.raw_data or length != size:
        raise ModelFileError(
            f"{what} is not as much as its type and dimensions say",
            received=f"{length} bytes",
            valid=f"{size} bytes",
        )
    if size > room:
        raise ModelFileError(f"{what} makes the model larger than 2 GB", received=f"{size} bytes more")
    location = told["location"]
    target = _inside(path.parent, location, what)
    if not target.exists():
        raise ModelFileError(f"{path}: the external data file {location} is missing")
    with _EXTERNAL_FILE.open(target) as file:
        if start + length > os.fstat(file.fileno()).st_size:
            raise ModelFileError(f"{path}: the external data file {location} is too short for {tensor.name}")
        file.seek(start)
        tensor.raw_data = file.read(length)
    tensor.data_location = TensorProto.DEFAULT
    del tensor.external_data[:]
    return size


def _number(text: str, key: str, what: str) -> int:
    # Nineteen digits are beyond any file; int() would take "٣" and " 4" as well.
    if not re.fullmatch("[0-9]{1,19}", text):
        raise ModelFileError(
            f"{what} has an impossible {key}", received=repr(text)[:60], valid="a whole number"
        )
    return int(text)


def _inside(folder: Path, location: str, what: str) -> Path:
    """The file `location` below `folder`; ModelFileError where it leads out of it."""
    try:
        resolved = folder.resolve()
        target = (resolved / location).resolve()
    except (OSError, ValueError, RuntimeError) as error:
        # A zero byte in the name, a name that is too long, a link to itself.
        raise ModelFileError(f"{what} has an impossible location", received=repr(location)[:60]) from error
    if Path(location).is_absolute() or not target.is_relative_to(resolved):
        raise ModelFileError(
            f"{what} is outside the model's folder", received=location, valid=f"a file below {resolved}"
        )
    return target


def onnx_bytes(model: ModelProto, path: Path) -> bytes:
    """The content of the file `path`. Raises ModelFileError for a model over 2 GB."""
    try:
        data = model.SerializeToString(deterministic=True)
    except (ValueError, EncodeError) as error:
        raise ModelFileError(f"{path}: the model is larger than 2 GB", valid="up to 2 GB") from error
    if len(data) > MAX_BYTES:
        raise ModelFileError(f"{path}: the model is larger than 2 GB", received=f"{len(data)} bytes")
    return data


def save_onnx(model: ModelProto, path: str | os.PathLike[str]) -> None:
    """Writes the model under a temporary name in the same folder and renames it.

    Raises ModelFileError for a model over 2 GB, a missing folder or a full disk; then the old file, if any,
    is unchanged and nothing new is left.
    """
    path = Path(path)
    data = onnx_bytes(model, path)
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise failure(f"cannot write {path}", error, ModelFileError) from error
