"""Output files: written under a temporary name in the same folder and renamed when complete."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aqd_deploy.errors import AqdError


def check_output(output: Path, *inputs: Path) -> None:
    """Fail before the work, not after it: the folder must exist and the output must be no folder and no
    input.
    """
    folder = output.parent
    if not folder.is_dir():
        raise AqdError("the folder of the output does not exist", received=str(folder),
                       next_command=f"mkdir -p {folder}")  # fmt: skip
    if output.is_dir():
        raise AqdError("the output is a folder", received=str(output), valid="the name of a file")
    if any(output.exists() and path.exists() and output.samefile(path) for path in inputs):
        raise AqdError("the output is also an input", received=str(output), valid="another name")


@contextmanager
def replacing(output: Path) -> Iterator[Path]:
    """A temporary path beside `output`: renamed to it on success, removed on failure."""
    handle, name = tempfile.mkstemp(prefix=f".{output.name}.", suffix=output.suffix, dir=output.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(output: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with replacing(output) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
