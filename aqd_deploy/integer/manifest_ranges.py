"""What the manifest of an integer file says of its tensors, held to what is proven of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from aqd_deploy.errors import ModelFileError
from aqd_deploy.integer.graph import Graph
from aqd_deploy.integer.manifest import MANIFEST_KEY
from aqd_deploy.integer.ranges import Interval
from aqd_deploy.integer.types import TensorType


def check_ranges(manifest: dict[str, Any], graph: Graph) -> None:
    """Hold `manifest`, as `read_manifest` returns it, to `graph`.

    - `inputs`: each is an input of the graph of that dtype, and it has one scale and zero point, or one a
      channel.
    - `outputs`: each is an output of the graph, its range holds the proven interval, and it has one scale or
      one a channel.
    - `shapes`: those of inputs and outputs to people, of as many elements as the tensor has.
    - `tail`: it reads outputs that have a scale.
    - `ranges`: each is a tensor of the graph, and its range holds the proven interval over all channels.

    Raises ModelFileError.
    """
    for name, entry in manifest.get("inputs", {}).items():
        if name not in graph.inputs:
            raise _refused(f"inputs.{name}", "an input that the graph does not have", graph.inputs)
        kind = graph.types[name]
        if entry["dtype"] != kind.dtype:
            raise _refused(f"inputs.{name}.dtype", entry["dtype"], kind.dtype)
        _check_meaning(f"inputs.{name}", entry, kind)
    for name, entry in manifest.get("outputs", {}).items():
        if name not in graph.outputs:
            raise _refused(f"outputs.{name}", "an output that the graph does not have", graph.outputs)
        proven = graph.ranges[graph.tensor(name)]
        _check_range(f"outputs.{name}", entry, proven)
        _check_meaning(f"outputs.{name}", entry, graph.types[graph.tensor(name)])
    for name in manifest.get("tail", {}).get("inputs", {}):
        if name not in manifest.get("outputs", {}):
            raise _refused(f"tail.inputs.{name}", "no output with a scale", ", ".join(graph.outputs))
    for name, shape in manifest.get("shapes", {}).items():
        if name not in (*graph.inputs, *graph.outputs):
            raise _refused(f"shapes.{name}", "neither an input nor an output of the graph", graph.outputs)
        size = graph.types[graph.tensor(name)].nchw
        if math.prod(shape) != math.prod(size):
            raise _refused(f"shapes.{name}", shape, f"as many elements as {list(size)}")
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


def _check_meaning(key: str, entry: Mapping[str, Any], kind: TensorType) -> None:
    """`scale` and `zero_point` (0 where there is none) of a tensor."""
    for name, value in (("scale", entry.get("scale")), ("zero_point", entry.get("zero_point", 0))):
        if value is None or (isinstance(value, list) and len(value) not in (1, kind.channels)):
            received = "none" if value is None else f"{len(value)} numbers"
            raise _refused(f"{key}.{name}", received, f"one number, or {kind.channels}, one a channel")


def _refused(key: str, received: object, valid: object) -> ModelFileError:
    return ModelFileError(
        f"the file's {MANIFEST_KEY} is wrong at {key}",
        received=received,
        valid=str(valid),
        next_command="aqd-deploy lower QDQ.onnx -o M.int.onnx, which writes the manifest anew",
    )
