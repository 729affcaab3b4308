"""`aqd-deploy inspect`: what a file holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from aqd_deploy.cli.options import existing, json_option
from aqd_deploy.cli.output import print_json, print_text, verb


@verb(name="inspect")
@click.argument("file", type=existing("FILE"))
@json_option
def command(file: Path, as_json: bool) -> None:
    """Tell what a file holds: .onnx (QDQ or integer), .so (a program), .pt (a checkpoint).

    Operators, bits and float tensors of an ONNX file; manifest and bytes a weight of a program; what
    lowering proved of either; configuration of a checkpoint.
    """
    from aqd_deploy.reporting.inspection import inspect_file

    document = inspect_file(file)
    if as_json:
        print_json(document)
    else:
        print_text(_text(document))


def _text(document: dict[str, Any]) -> str:
    from aqd_deploy.passes.proven import sentences
    from aqd_deploy.reporting.tables import key_values, table

    top = {"file": document["file"], "kind": document["kind"], "size": f"{document['bytes'] / 1e6:.3f} MB"}
    if "float_tensors" in document:
        top["float tensors inside"] = str(document["float_tensors"]["count"])
    weights = document["weights"]
    top["weights"] = f"{weights['count']:,}"
    if weights.get("bytes_per_weight") is not None:
        top["bytes a weight"] = str(weights["bytes_per_weight"])
    parts = [key_values(top)]
    lowering = document.get("manifest", {}).get("lowering")
    if isinstance(lowering, dict) and sentences(lowering):
        parts.append("\n".join(f"- {sentence}" for sentence in sentences(lowering)))
    if document["kind"] == "program":
        rows = [
            [bits, entry["weights"], entry["bytes"], entry["bytes_per_weight"]]
            for bits, entry in weights["by_bits"].items()
        ]
        parts.append(table(["bits", "weights", "bytes", "bytes a weight"], rows))
        parts.append(json.dumps(_short(document["manifest"]), indent=1))
    elif document["kind"] == "checkpoint":
        parts.append(key_values({**document["config"], "record": document["record"]}))
    else:
        parts.append(table(["operator", "nodes"], document["operators"].items()))
        ports = [
            [side, value["name"], value["dtype"], "x".join(map(str, value["shape"]))]
            for side in ("inputs", "outputs")
            for value in document[side]
        ]
        parts.append(table(["", "name", "dtype", "shape"], ports))
        if document.get("ranges"):
            rows = [[name, entry["lo"], entry["hi"]] for name, entry in document["ranges"].items()]
            parts.append(table(["integer tensor", "min", "max"], rows))
    return "\n\n".join(parts)


def _short(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest without the list of layers, which `--json` prints."""
    program = {key: value for key, value in manifest.get("program", {}).items() if key != "layers"}
    return {**manifest, "program": program}
