"""The `aqd.manifest` of an ONNX file: what a model says of itself, as JSON in its metadata."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from aqd_deploy.errors import ModelFileError
from aqd_deploy.inputs import parse_json
from aqd_deploy.schema import (
    LARGEST,
    SchemaError,
    list_of,
    number,
    one_of,
    one_or_list,
    table,
    table_of,
    text,
    whole,
)

if TYPE_CHECKING:
    from onnx import ModelProto

MANIFEST_KEY = "aqd.manifest"
SCHEMA = 1
_BOUND = whole(-LARGEST - 1, LARGEST)
_SCALE, _ZERO_POINT = one_or_list(number(above=0)), one_or_list(whole(-128, 255))
# `preprocessing` and `detector` are checked by those who read them: a network without them can be compiled.
MODEL_KEYS = {
    "schema": whole(SCHEMA, SCHEMA),
    "name": text,
    "inputs": table_of(table({"scale": _SCALE, "zero_point": _ZERO_POINT, "dtype": one_of("uint8", "int8")})),
    "outputs": table_of(table({}, {"scale": _SCALE, "zero_point": _ZERO_POINT, "lo": _BOUND, "hi": _BOUND})),
    "shapes": table_of(list_of(whole(1, 1 << 31))),
    "tail": table({"inputs": table_of(table({})), "sha256": text}),
    "ranges": table_of(table({"lo": _BOUND, "hi": _BOUND})),
    "output_errors": table_of(number(0)),
    "lowering": table({}),
}
"""What the entries of a model's manifest have to be where there are any; a program's has them, too."""
_SCHEMA = table({}, MODEL_KEYS)


def read_manifest(model: ModelProto) -> dict[str, Any]:
    """The manifest of a model, {} where it has none.

    Raises ModelFileError where it is there twice, is not a JSON object, or an entry that the library reads is
    not what it should be.
    """
    found = [entry.value for entry in model.metadata_props if entry.key == MANIFEST_KEY]
    if len(found) > 1:
        raise ModelFileError(f"the file has {len(found)} entries {MANIFEST_KEY}", valid="one")
    return _parsed(found[0]) if found else {}


def set_image_size(model: ModelProto, name: str, height: int, width: int) -> None:
    """Make `height` and `width` the size that the manifest's preprocessing gives the input `name`.

    A model without preprocessing, or with that of another input, is left as it is. Raises what
    `read_manifest` does.
    """
    manifest = read_manifest(model)
    preprocessing = manifest.get("preprocessing")
    if not isinstance(preprocessing, dict) or preprocessing.get("input", "image") != name:
        return
    manifest["preprocessing"] = {**preprocessing, "height": height, "width": width}
    entry = next(entry for entry in model.metadata_props if entry.key == MANIFEST_KEY)
    entry.value = json.dumps(manifest)


def _parsed(text_of_manifest: str) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = parse_json(text_of_manifest)
    except ValueError as error:
        raise ModelFileError(f"the file's {MANIFEST_KEY} isn't JSON: {error}") from error
    if not isinstance(manifest, dict):
        raise ModelFileError(
            f"the file's {MANIFEST_KEY} isn't a JSON object", received=type(manifest).__name__
        )
    try:
        _SCHEMA(manifest, "")
    except SchemaError as error:
        raise error.of(f"the file's {MANIFEST_KEY}", ModelFileError) from error
    return manifest
