"""Named arrays in .npz files: read without running anything in them, written whole or not at all."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from aqd_deploy.errors import AqdError
from aqd_deploy.files import replacing


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Every array of an .npz file by name; AqdError where it is missing, damaged, no .npz or holds
    objects.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise AqdError("the file holds one array without a name", received=str(path),
                               valid="an .npz file: numpy.savez(path, image=array)")  # fmt: skip
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise AqdError("there is no such file", received=str(path), valid="an .npz file") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise AqdError(
            f"the arrays cannot be read ({error})", received=str(path), valid="an .npz file"
        ) from error


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write named arrays as an .npz file."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
