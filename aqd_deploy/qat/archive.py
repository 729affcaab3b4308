"""Checkpoint files: written whole or not at all, and read without running any code from them.

Read are torch files, pickles of numpy arrays and safetensors, told apart by how they begin.
"""

from __future__ import annotations

import io
import os
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any

import torch

from aqd_deploy.errors import CheckpointError
from aqd_deploy.files import replacing
from aqd_deploy.inputs import GIB, MIB, FileKind, size_text
from aqd_deploy.qat.numpy_pickle import read_numpy_pickle
from aqd_deploy.qat.safetensors import is_safetensors, read_safetensors

CHECKPOINT_FILE = FileKind("checkpoint", "a .pt file of tensors, numbers and texts", 8 * GIB, CheckpointError)
TORCH_PICKLE = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""How torch files begin that are no zip files: a pickled number. Other pickles are not torch's."""
SAVE = (
    "in Python: aqd_deploy.qat.checkpoint.save_checkpoint('NEW.pt', model), "
    "then aqd-deploy export NEW.pt -o m.qdq.onnx"
)
"""What to do with a network whose file does not say what it is."""


def write_archive(path: Path, content: dict[str, Any]) -> None:
    """torch.save to a temporary name, then renamed: a killed run leaves the old file or the new one."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def read_archive(path: Path) -> dict[str, Any]:
    """The dictionary of a checkpoint file; CheckpointError where it is missing, damaged or has code."""
    with CHECKPOINT_FILE.open(path) as file:
        _check_sizes(file, path)
        try:
            content = _content(file)
        except Exception as error:  # on arbitrary bytes the unpickler fails in any way there is
            raise _unreadable(path, file, error) from error
    if not isinstance(content, dict):
        raise CheckpointError("a checkpoint is a dictionary", received=f"{path}: {type(content).__name__}")
    return content


def _content(file: IO[bytes]) -> Any:
    """What the file holds, tensors on the CPU."""
    start = file.read(len(TORCH_PICKLE))
    file.seek(0)
    if start[:1] == b"\x80" and start != TORCH_PICKLE:
        return read_numpy_pickle(file)
    if is_safetensors(start, os.fstat(file.fileno()).st_size):
        return read_safetensors(file.read())
    with warnings.catch_warnings():  # about pickle protocols; what matters is said where it fails
        warnings.simplefilter("ignore", UserWarning)
        return torch.load(file, map_location="cpu", weights_only=True)


def _check_sizes(file: IO[bytes], path: Path) -> None:
    """Raise CheckpointError where the members of a zip file say that they inflate to more than a checkpoint
    can have: torch reads a member whole.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            size = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        size = 0
    file.seek(0)
    if size > max(4 * os.fstat(file.fileno()).st_size, 64 * MIB):
        raise CheckpointError(
            "the checkpoint says that it holds far more than it does", received=f"{path}: {size_text(size)}"
        )


def _unreadable(path: Path, file: IO[bytes], error: Exception) -> CheckpointError:
    """Why torch could not read a file."""
    file.seek(0)
    archive = zipfile.is_zipfile(file)
    file.seek(0)
    start = file.read(len(TORCH_PICKLE))
    if archive and _is_script(file):
        return CheckpointError(
            f"{path} is a TorchScript program, which is not loaded because it could run anything",
            received="a file of torch.jit.save",
            valid="a file of tensors, numbers and strings only",
            next_command=SAVE,
        )
    if isinstance(error, pickle.UnpicklingError) and (
        archive or start == TORCH_PICKLE or _named_object(error)
    ):
        return CheckpointError(
            f"{path} holds pickled code or objects, which are not loaded because they could run anything",
            received=_named_object(error),
            valid="a file of tensors, numbers and strings only",
            next_command=SAVE,
        )
    if archive or start[:2] in (b"PK", b"") or start[:1] == b"\x80" or start[8:9] == b"{":
        return CheckpointError(
            "the checkpoint is truncated or damaged", received=f"{path} ({path.stat().st_size} bytes)"
        )
    return CheckpointError("this is not a torch checkpoint", received=str(path))


def _is_script(file: IO[bytes]) -> bool:
    """Whether a zip file is one of torch.jit.save, as torch itself tells them."""
    try:
        with zipfile.ZipFile(file) as archive:
            return any(name.rpartition("/")[2] == "constants.pkl" for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


def _named_object(error: Exception) -> str | None:
    """`module.Class` of the object that torch would not load, None where torch does not name it."""
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    if found is None:
        return None
    return found[1] if "." in found[1] else f"builtins.{found[1]}"
