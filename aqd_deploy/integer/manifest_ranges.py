"""What the manifest of an integer file says of its tensors, held to what is proven of them."""

from __future__ import annotations

from typing import Any

from aqd_deploy.errors import ModelFileError
from aqd_deploy.integer.graph import Graph
from aqd_deploy.integer.manifest import MANIFEST_KEY
from aqd_deploy.integer.ranges import Interval


def check_ranges(manifest: dict[str, Any], graph: Graph) -> None:
    """Hold `manifest`, as `read_manifest` returns it, to `graph`.

    - `outputs`: each is an output of the graph, its range holds the proven interval, and it has one scale or
      one a channel.
    - `ranges`: each is a tensor of the graph, and its range holds the proven interval over all channels.

    Raises ModelFileError.
    """
    for name, entry in manifest.get("outputs", {}).items():
        if name not in graph.outputs:
            raise _refused(f"outputs.{name}", "an output that the graph does not have", graph.outputs)
        proven = graph.ranges[graph.tensor(name)]
        _check_range(f"outputs.{name}", entry, proven)
        _check_scales(f"outputs.{name}.scale", entry.get("scale"), len(proven.lo))
    for name, entry in manifest.get("ranges", {}).items():
        tensor = graph.tensor(name)
        if tensor not in graph.ranges:
            raise _refused(f"ranges.{name}", "a tensor that the graph does not compute", "its tensors")
        _check_range(f"ranges.{name}", entry, graph.ranges[tensor])


def _check_range(key: str, entry: dict[str, Any], proven: Interval) -> None:
    low, high = proven.bounds
    if "lo" not in entry or "hi" not in entry:
        raise _refused(key, ", ".join(entry) or "nothing", 'integers "lo" and "hi"')
    if entry["lo"] > low or entry["hi"] < high:
        received = f"[{entry['lo']}, {entry['hi']}]"
        raise _refused(key, received, f"a range that holds [{low}, {high}], which the graph can reach")


def _check_scales(key: str, scale: Any, channels: int) -> None:
    if scale is None or (isinstance(scale, list) and len(scale) not in (1, channels)):
        received = "none" if scale is None else f"{len(scale)} numbers"
        raise _refused(key, received, f"one positive number, or {channels}, one a channel")


def _refused(key: str, received: object, valid: object) -> ModelFileError:
    return ModelFileError(
        f"the file's {MANIFEST_KEY} is wrong at {key}",
        received=received,
        valid=str(valid),
        next_command="aqd-deploy lower QDQ.onnx -o M.int.onnx, which writes the manifest anew",
    )
