"""Whose files an output folder has: a verb that derives names from its inputs replaces what it wrote itself
in an earlier run, and no file of anybody else.

What each verb wrote is listed in the folder, in `.written-by-aqd-deploy`, before the first of its files is
made.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from aqd_deploy.errors import AqdError
from aqd_deploy.files import check_folder, write_text
from aqd_deploy.inputs import MIB, FileKind
from aqd_deploy.schema import SchemaError, list_of, table_of, text

LIST = ".written-by-aqd-deploy"
_FILE = FileKind("list of files", f"a {LIST}", 64 * MIB)
_SCHEMA = table_of(list_of(text))


def check_claim(folder: Path, verb: str, names: Iterable[str], inputs: Iterable[Path]) -> list[str]:
    """The files that an earlier run of `verb` left in `folder`, where it may write `names`.

    Raises AqdError where `folder` is a file or cannot be made or written, and where one of `names`, or of the
    earlier files, is one of `inputs`, or one of `names` is there that no earlier run of `verb` wrote.
    """
    if os.path.lexists(folder) and not folder.is_dir():
        raise AqdError("the output is a file", received=str(folder), valid="the name of a folder")
    check_folder(folder)
    listed = _listed(folder).get(verb, [])
    earlier = [name for name in listed if Path(name).name == name and (folder / name).is_file()]
    taken = {_identity(path) for path in inputs if path.exists()}
    for name in sorted({*names, *earlier}):
        path = folder / name
        if path.exists() and _identity(path) in taken:
            raise AqdError("the output is also an input", received=str(path), valid="another folder")
        if os.path.lexists(path) and name not in earlier:
            raise AqdError(
                f"the output folder has a file that {verb} did not write", received=str(path),
                valid="another folder, or that file elsewhere",
            )  # fmt: skip
    return earlier


def claim(folder: Path, verb: str, names: Iterable[str]) -> None:
    """Say that files of these names in `folder` are those of `verb`, whatever becomes of this process.

    Raises OSError.
    """
    listed = {**_listed(folder), verb: sorted(set(names))}
    write_text(folder / LIST, json.dumps(listed) + "\n")


def _listed(folder: Path) -> dict[str, list[str]]:
    try:
        listed = _FILE.read_json(folder / LIST)
        _SCHEMA(listed, "")
    except (AqdError, SchemaError):
        return {}
    return dict(listed)


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
