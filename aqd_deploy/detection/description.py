"""A detector that a person describes, for a network whose file says nothing of images and boxes.

The TOML or JSON file has the tables `preprocessing` and `detector` of a manifest (docs/qdq-form.md), with
defaults for what a network's file or a kind of detector tells.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aqd_deploy.detection.detectors import detector_named
from aqd_deploy.detection.images import PREPROCESSING_KEYS, Preprocess
from aqd_deploy.detection.settings import DetectorSettings, detector_keys
from aqd_deploy.errors import ModelFileError, line_of
from aqd_deploy.inputs import MIB, FileKind, parse_json

DESCRIPTION_FILE = FileKind(
    "description of a detector", "a TOML or JSON file (docs/how-to/foreign-models.md)", MIB, ModelFileError
)
_OWNER = "the manifest"
_NEXT = "the same command, once the file is as docs/how-to/foreign-models.md shows it"
_TABLES = ("detector", "preprocessing")
_FORMATS: dict[str, tuple[str, Callable[[str], Any]]] = {
    ".toml": ("TOML", tomllib.loads),
    ".json": ("JSON", parse_json),
}
"""By the name's end; a file of another name is read as TOML."""
_DEFAULTS = {"score_threshold": 0.05, "max_detections": 100, "pre_nms": 1000}


def read_description(
    path: Path, manifest: Mapping[str, Any], inputs: Mapping[str, Sequence[Any]]
) -> dict[str, Any]:
    """The entries `preprocessing` and `detector` that the file at `path` gives the manifest of a network
    whose inputs have these shapes. Raises ModelFileError where it does not tell how to feed that network and
    how to read it.
    """
    document = _tables(path)
    with about(path):
        _check_known("", document, _TABLES)
        detector = _detector(document["detector"])
        preprocessing = _preprocessing(document["preprocessing"], manifest, inputs)
        entries = {"preprocessing": preprocessing, "detector": detector}
        DetectorSettings.from_manifest(entries)
        Preprocess.from_manifest({**manifest, **entries})
    return entries


@contextmanager
def about(path: Path) -> Iterator[None]:
    """A block that reads entries of the description at `path`: errors tell of it instead of the manifest."""
    try:
        yield
    except ModelFileError as error:
        what = error.what
        told = what.replace(_OWNER, str(path)) if _OWNER in what else f"{path}: {what}"
        raise ModelFileError(told, received=error.received, valid=error.valid, next_command=_NEXT) from error


def _tables(path: Path) -> dict[str, dict[str, Any]]:
    kind, parse = _FORMATS.get(path.suffix.lower(), _FORMATS[".toml"])
    try:
        document = parse(DESCRIPTION_FILE.read(path).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelFileError(
            f"{path} is not a {kind} file: {line_of(error)}", valid=DESCRIPTION_FILE.valid, next_command=_NEXT
        ) from error
    if not isinstance(document, dict):
        raise ModelFileError(f"{path} is no object", valid=DESCRIPTION_FILE.valid, next_command=_NEXT)
    for name in _TABLES:
        if not isinstance(document.get(name), dict):
            raise ModelFileError(
                f"{path} has no table [{name}]",
                received=", ".join(document) or "nothing",
                valid=" and ".join(f"[{each}]" for each in _TABLES),
                next_command=_NEXT,
            )
    return document


def _detector(entry: Mapping[str, Any]) -> dict[str, Any]:
    kind = detector_named(entry.get("kind"), ModelFileError)
    _check_known("detector.", entry, ("kind", *(key for keys in detector_keys(kind) for key in keys)))
    return {**_DEFAULTS, "nms_iou": kind.nms_iou, **entry}


def _preprocessing(
    entry: Mapping[str, Any], manifest: Mapping[str, Any], inputs: Mapping[str, Sequence[Any]]
) -> dict[str, Any]:
    _check_known("preprocessing.", entry, [key for keys in PREPROCESSING_KEYS for key in keys])
    name = entry.get("input", next(iter(inputs)) if len(inputs) == 1 else None)
    if not isinstance(name, str) or name not in inputs:
        raise ModelFileError(
            f"{_OWNER} names another input than the network has at preprocessing.input",
            received=name, valid=", ".join(inputs),
        )  # fmt: skip
    given = [key for key in ("mean", "std") if key in entry]
    if given and name not in manifest.get("inputs", {}):
        raise ModelFileError(
            f"{_OWNER} has {' and '.join(given)} for a network that takes pixels as they are",
            received=f"preprocessing.{given[0]}", valid=f"none: {name} is not an input of floats",
        )  # fmt: skip
    size = {
        key: side for key, side in zip(("height", "width"), inputs[name][2:], strict=False)
        if isinstance(side, int)
    }  # fmt: skip
    return {**size, "input": name, **entry}


def _check_known(place: str, entry: Mapping[str, Any], keys: Iterable[str]) -> None:
    known = list(keys)
    strange = [key for key in entry if key not in known]
    if strange:
        raise ModelFileError(
            f"{_OWNER} has a key that is not known", received=f"{place}{strange[0]}",
            valid=", ".join(known),
        )  # fmt: skip
