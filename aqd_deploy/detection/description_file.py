"""The file of a description: its tables, over those of the one that it begins with."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aqd_deploy.detection.descriptions import file_of, is_shipped, shipped
from aqd_deploy.errors import ModelFileError, line_of
from aqd_deploy.inputs import MIB, FileKind, parse_json

DESCRIPTION_FILE = FileKind(
    "description of a detector", "a TOML or JSON file (docs/how-to/foreign-models.md)", MIB, ModelFileError
)
OWNER = "the manifest"
NEXT = "the same command, once the file is as docs/how-to/foreign-models.md shows it"
_TABLES = ("detector", "preprocessing")
_KEYS = (*_TABLES, "base", "forms")
_FORMATS: dict[str, tuple[str, Callable[[str], Any]]] = {
    ".toml": ("TOML", tomllib.loads),
    ".json": ("JSON", parse_json),
}
"""By the name's end; a file of another name is read as TOML."""


@dataclass(frozen=True)
class Description:
    """What a file says: the two tables, the forms that a network comes in (none: it is the detector as it
    stands), and the keys of `preprocessing` that it says itself, not the one that it begins with.
    """

    preprocessing: Mapping[str, Any]
    detector: Mapping[str, Any]
    forms: list[Mapping[str, Any]]
    told: frozenset[str]


def load_description(path: Path) -> Description:
    """The description at `path`, over its `base`. Raises ModelFileError for a file that is not one."""
    document = _parsed(path)
    strange = [key for key in document if key not in _KEYS]
    if strange:
        raise _refused(f"{path} has a key that is not known", strange[0], ", ".join(_KEYS))
    base = document.get("base")
    # A shipped file tells for whoever reads it: what it says isn't what the user says.
    own = is_shipped(path)
    if base is None:
        _check_tables(path, document, needed=True)
        forms = _forms_of(path, document)
        told = frozenset() if own else frozenset(document["preprocessing"])
        return Description(document["preprocessing"], document.get("detector", {}), forms, told)
    if not isinstance(base, str) or not (base in shipped() or (own and file_of(base).exists())):
        raise _refused(f"{path} begins with a description that does not ship", base, ", ".join(shipped()))
    _check_tables(path, document, needed=False)
    under = load_description(file_of(base))
    preprocessing, detector = document.get("preprocessing", {}), document.get("detector", {})
    merged = {**under.detector, **detector}
    if "classes" in detector and "category_ids" not in detector:
        # Those of the base are of its classes.
        merged.pop("category_ids", None)
    forms = [] if "kind" in detector else _forms_of(path, document) or under.forms
    told = frozenset() if own else frozenset(preprocessing)
    return Description({**under.preprocessing, **preprocessing}, merged, forms, told)


def _parsed(path: Path) -> dict[str, Any]:
    kind, parse = _FORMATS.get(path.suffix.lower(), _FORMATS[".toml"])
    try:
        document = parse(DESCRIPTION_FILE.read(path).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelFileError(
            f"{path} is not a {kind} file: {line_of(error)}", valid=DESCRIPTION_FILE.valid, next_command=NEXT
        ) from error
    if not isinstance(document, dict):
        raise ModelFileError(f"{path} is no object", valid=DESCRIPTION_FILE.valid, next_command=NEXT)
    return document


def _check_tables(path: Path, document: Mapping[str, Any], *, needed: bool) -> None:
    for name in _TABLES:
        if not isinstance(document.get(name, None if needed else {}), dict):
            raise _refused(
                f"{path} has no table [{name}]", ", ".join(document) or "nothing",
                " and ".join(f"[{each}]" for each in _TABLES),
            )  # fmt: skip


def _forms_of(path: Path, document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    forms = document.get("forms", [])
    if not isinstance(forms, list) or not all(isinstance(form, dict) and "kind" in form for form in forms):
        raise _refused(f"{path} has no valid forms", None, "[[forms]], each with a kind")
    return list(forms)


def _refused(what: str, received: object, valid: str) -> ModelFileError:
    shown = received if received is None else str(received)[:80]
    return ModelFileError(what, received=shown, valid=valid, next_command=NEXT)
