"""The QDQ file behind a program: what its peers are made from."""

from __future__ import annotations

import hashlib
import shlex
from pathlib import Path
from typing import Any

from aqd_deploy.errors import AqdError, ModelFileError
from aqd_deploy.integer.files import load_onnx
from aqd_deploy.integer.kinds import kind_of
from aqd_deploy.integer.manifest import read_manifest


def find_qdq(program: Path, manifest: dict[str, Any], explicit: Path | None = None) -> Path:
    """The QDQ file a program was made from.

    `explicit` if given; else the QDQ file beside the program whose SHA-256 the manifest records; else the
    one beside it of the same stem whose manifest, or graph, has the same name. Raises AqdError where there
    is none.
    """
    if explicit is not None:
        if kind_of(load_onnx(explicit)) != "qdq":
            raise ModelFileError(
                "this is not a QDQ file", received=str(explicit), valid="what `export` or a quantizer writes"
            )
        return explicit
    recorded = manifest.get("program", {}).get("sha256", {}).get("source")
    beside = sorted(program.parent.glob("*.onnx"))
    for path in beside:
        if recorded is not None and _sha256(path) == recorded and kind_of(load_onnx(path)) == "qdq":
            return path
    for path in beside:
        if path.name.split(".")[0] == program.name.split(".")[0]:
            model = load_onnx(path)
            named = read_manifest(model).get("name") or model.graph.name or "model"
            if kind_of(model) == "qdq" and named == manifest.get("name"):
                return path
    raise AqdError(
        "the QDQ file that the program was made from is not beside it, so there is nothing to give to a peer",
        received=str(program),
        next_command=f"aqd-deploy bench {shlex.quote(str(program))} --model m.qdq.onnx --against onnxruntime",
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
