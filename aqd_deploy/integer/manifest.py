"""The `aqd.manifest` of an ONNX file: one JSON object in the model's metadata."""

from __future__ import annotations

import json
import math
from typing import Any

from onnx import ModelProto

from aqd_deploy.errors import ModelFileError
from aqd_deploy.integer.graph import Graph
from aqd_deploy.integer.ranges import Interval

MANIFEST_KEY = "aqd.manifest"
_REMEDY = "aqd-deploy export or aqd-deploy lower, which write the manifest anew"


def read_manifest(model: ModelProto) -> dict[str, Any]:
    """The manifest of a QDQ or integer model, {} where it has none.

    Raises ModelFileError where it is not a JSON object, nests too deeply, or is there twice.
    """
    found = [entry.value for entry in model.metadata_props if entry.key == MANIFEST_KEY]
    if not found:
        return {}
    if len(found) > 1:
        raise ModelFileError(f"the file has {len(found)} entries {MANIFEST_KEY}", valid="one")
    try:
        manifest = json.loads(found[0], parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        reason = "it nests too deeply" if isinstance(error, RecursionError) else str(error)
        raise ModelFileError(
            f"the file's {MANIFEST_KEY} isn't JSON: {reason}", next_command=_REMEDY
        ) from error
    if not isinstance(manifest, dict):
        raise ModelFileError(
            f"the file's {MANIFEST_KEY} isn't a JSON object", received=type(manifest).__name__
        )
    return manifest


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is not a number of JSON")


def check_manifest(manifest: dict[str, Any], graph: Graph) -> None:
    """What the manifest of an integer file says of its tensors, held to what is proven of them.

    - `outputs`: for a graph output its `scale`, one positive number or one a channel, and its range.
    - `ranges`: of a tensor "the proven interval over all channels": no integer lies outside.
    - `lowering`: an object.

    Raises ModelFileError.
    """
    for name, entry in _object(manifest, "outputs").items():
        if name not in graph.outputs:
            raise _refused(f"outputs.{name}", "an output that the graph does not have", graph.outputs)
        proven = graph.ranges[graph.copies.get(name, name)]
        _check_range(f"outputs.{name}", entry, proven)
        _check_scale(f"outputs.{name}.scale", entry.get("scale"), len(proven.lo))
    for name, entry in _object(manifest, "ranges").items():
        tensor = graph.copies.get(name, name)
        if tensor not in graph.ranges:
            raise _refused(f"ranges.{name}", "a tensor that the graph does not compute", "its tensors")
        _check_range(f"ranges.{name}", entry, graph.ranges[tensor])
    _object(manifest, "lowering")


def _object(manifest: dict[str, Any], key: str) -> dict[str, Any]:
    value = manifest.get(key, {})
    if not isinstance(value, dict):
        raise _refused(key, type(value).__name__, "an object")
    return value


def _check_range(key: str, entry: Any, proven: Interval) -> None:
    low, high = proven.bounds
    if not isinstance(entry, dict) or not all(type(entry.get(end)) is int for end in ("lo", "hi")):
        raise _refused(key, _short(entry), 'integers "lo" and "hi"')
    if entry["lo"] > low or entry["hi"] < high:
        raise _refused(key, _short(entry), f"a range that holds [{low}, {high}], which the graph can reach")


def _check_scale(key: str, scale: Any, channels: int) -> None:
    values = scale if isinstance(scale, list) else [scale]
    numbers = all(type(v) in (int, float) and math.isfinite(v) and v > 0 for v in values)
    if len(values) not in (1, channels) or not numbers:
        raise _refused(key, _short(scale), f"one positive number, or {channels}, one a channel")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _refused(key: str, received: object, valid: object) -> ModelFileError:
    return ModelFileError(
        f"the file's {MANIFEST_KEY} is wrong at {key}",
        received=received,
        valid=str(valid),
        next_command="aqd-deploy lower, which writes the manifest anew",
    )
