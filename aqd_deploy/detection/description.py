"""A detector that a person describes, for a network whose file says nothing of images and boxes.

The TOML or JSON file has the tables `preprocessing` and `detector` of a manifest (docs/qdq-form.md), with
defaults for what a network's file or a kind of detector tells. With `base` it begins with a description that
ships. Where a network comes in several `forms`, that one counts whose outputs it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aqd_deploy.detection.description_file import NEXT, OWNER, Description, load_description
from aqd_deploy.detection.descriptions import is_shipped
from aqd_deploy.detection.detectors import Detector, detector_named
from aqd_deploy.detection.images import PREPROCESSING_KEYS, Preprocess
from aqd_deploy.detection.settings import DetectorSettings, detector_keys
from aqd_deploy.errors import ModelFileError
from aqd_deploy.schema import SchemaError, table

Shapes = Mapping[str, Sequence[Any]]
_DEFAULTS = {"score_threshold": 0.05, "max_detections": 100, "pre_nms": 1000}


def read_description(
    path: Path, manifest: Mapping[str, Any], inputs: Shapes, outputs: Callable[[], Shapes] = dict
) -> dict[str, Any]:
    """The entries `preprocessing` and `detector` that the file at `path` gives the manifest of a network
    whose inputs and outputs have these shapes; `outputs` is asked where the file leaves open which of them
    are the detector's. Raises ModelFileError where it does not tell how to feed that network and how to read
    it.
    """
    described = load_description(path)
    with about(path):
        preprocessing = _preprocessing(described, manifest, inputs)
        entries = {"preprocessing": preprocessing}
        steps = Preprocess.from_manifest({**manifest, **entries})
        entries["detector"] = _detector(described, outputs, (steps.height, steps.width))
        DetectorSettings.from_manifest(entries)
    return entries


@contextmanager
def about(path: Path) -> Iterator[None]:
    """A block that reads entries of the description at `path`: errors tell of it instead of the manifest."""
    try:
        yield
    except ModelFileError as error:
        what, ships = error.what, is_shipped(path)
        name = f"the description {path.stem}" if ships else str(path)
        told = what.replace(OWNER, name) if OWNER in what else f"{name}: {what}"
        over = f'a file that has base = "{path.stem}" and your classes (docs/how-to/yolo-files.md)'
        advice = f"the same command with {over}" if ships else NEXT
        raise ModelFileError(told, received=error.received, valid=error.valid, next_command=advice) from error


def _detector(described: Description, outputs: Callable[[], Shapes], size: tuple[int, int]) -> dict[str, Any]:
    """The entry of the form that the network has; with one form and its outputs named, nothing is asked."""
    forms = _forms(described)
    if len(forms) == 1 and "outputs" in forms[0]:
        return forms[0]
    shapes = outputs()
    for form in forms:
        kind = detector_named(form["kind"], ModelFileError)
        _check(kind, {"outputs": {each: [""] for each in kind.kinds}, **form})
        found = kind.found(form, shapes, size)
        if found is not None:
            return found
    if not described.forms:
        # The check of the entry tells what is missing.
        return forms[0]
    classes = len(described.detector.get("classes", ()))
    raise ModelFileError(
        f"{OWNER} finds no outputs of its kinds for {classes} classes and {size[0]} x {size[1]} pixels",
        received=", ".join(f"{name} {list(shape)}" for name, shape in shapes.items()) or "no outputs",
        valid="detector.classes and the size of the training, or detector.outputs, which names them",
    )


def _forms(described: Description) -> list[dict[str, Any]]:
    """The entry of each form, with the defaults of its kind. Raises ModelFileError for unknown keys."""
    entry, forms = described.detector, described.forms or [{}]
    kinds = [detector_named({**entry, **form}.get("kind"), ModelFileError) for form in forms]
    known = dict.fromkeys(key for kind in kinds for key in _keys(kind))
    _check_known("detector.", entry, ("kind", *known) if described.forms else ("kind", *_keys(kinds[0])))
    # Anything else is told where a form's entry is checked.
    named = set(entry["outputs"]) if isinstance(entry.get("outputs"), Mapping) else set()
    return [
        {
            **_DEFAULTS, "nms_iou": kind.nms_iou, **form,
            **{key: value for key, value in entry.items() if key == "kind" or key in _keys(kind)},
        }
        for kind, form in zip(kinds, forms, strict=True)
        if named <= set(kind.kinds) or not described.forms
    ]  # fmt: skip


def _keys(kind: type[Detector]) -> list[str]:
    return [key for keys in detector_keys(kind) for key in keys]


def _check(kind: type[Detector], entry: Mapping[str, Any]) -> None:
    try:
        table(*detector_keys(kind))(dict(entry), "")
    except SchemaError as error:
        raise error.of("the manifest's detector", ModelFileError) from None


def _preprocessing(described: Description, manifest: Mapping[str, Any], inputs: Shapes) -> dict[str, Any]:
    entry = described.preprocessing
    _check_known("preprocessing.", entry, [key for keys in PREPROCESSING_KEYS for key in keys])
    name = entry.get("input", next(iter(inputs)) if len(inputs) == 1 else None)
    if not isinstance(name, str) or name not in inputs:
        raise ModelFileError(
            f"{OWNER} names another input than the network has at preprocessing.input",
            received=name, valid=", ".join(inputs),
        )  # fmt: skip
    given = [key for key in ("mean", "std") if key in described.told]
    if given and name not in manifest.get("inputs", {}):
        raise ModelFileError(
            f"{OWNER} has {' and '.join(given)} for a network that takes pixels as they are",
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
            f"{OWNER} has a key that is not known", received=f"{place}{strange[0]}",
            valid=", ".join(known),
        )  # fmt: skip
