"""The tail: what stays float behind the last quantizers, a second ONNX file beside the one that is integer.

A host runs it (`runtime.tail`). The manifest of the integer file, and of a program made of it, has its
SHA-256 and tells which outputs it reads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aqd_deploy.errors import ModelFileError
from aqd_deploy.files import check_output, failure, replacing
from aqd_deploy.inputs import GIB, FileKind

SUFFIX = ".tail.onnx"
_NEXT = "aqd-deploy lower QDQ.onnx -o M.int.onnx, then compile M.int.onnx: both write the tail beside"
_TAIL_FILE = FileKind(
    "tail", "the file that lower or compile wrote beside it", 2 * GIB - 1, ModelFileError, _NEXT
)


def tail_path(owner: Path) -> Path:
    """Where the tail of an integer file or a program lies: `m.tail.onnx` beside `m.so`."""
    return owner.with_suffix(SUFFIX)


def read_tail(owner: Path, manifest: dict[str, Any]) -> bytes | None:
    """The tail of the file `owner` with that manifest; None where it has none.

    Raises ModelFileError where it is missing, or not the one that was made with `owner`.
    """
    entry = manifest.get("tail")
    if entry is None:
        return None
    path = tail_path(owner)
    data = _TAIL_FILE.read(path)
    found = hashlib.sha256(data).hexdigest()
    if found != entry["sha256"]:
        raise ModelFileError(
            f"the tail {path} is damaged or of another network than {owner}",
            received=f"SHA-256 {found[:16]}…",
            valid=f"{entry['sha256'][:16]}…",
            next_command=_NEXT,
        )
    return data


@contextmanager
def with_tail(owner: Path, tail: bytes | None, *inputs: Path) -> Iterator[None]:
    """A block that writes the file `owner`, whose tail is `tail`: beside it when the block has ended, not
    there where it fails; nothing for None.

    Raises ModelFileError where the tail cannot be written, or would replace one of the `inputs`.
    """
    if tail is None:
        yield
        return
    path = tail_path(owner)
    check_output(path, *inputs, error=ModelFileError)
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(tail)
            yield
    except OSError as error:
        raise failure(f"cannot write {path}", error, ModelFileError) from error
