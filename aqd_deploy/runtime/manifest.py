"""The manifest of a program file: unpacked within limits, and checked for what every reader asks of it."""

from __future__ import annotations

import zlib
from typing import Any

from aqd_deploy.errors import ProgramError
from aqd_deploy.inputs import MIB, parse_json
from aqd_deploy.integer.manifest import MODEL_KEYS
from aqd_deploy.schema import (
    SchemaError,
    anything,
    list_of,
    nothing_or,
    number,
    one_of,
    table,
    table_of,
    text,
    whole,
)

_RECOMPILE = "aqd-deploy compile MODEL.onnx -o PROGRAM.so"
MANIFEST_LIMIT = 32 * MIB
"""Bytes of a manifest's text. A network of ten thousand layers has 10 MB; JSON takes up to 30 times its text
in memory.
"""

_BYTES = whole()
_TENSOR = table({
    "name": text,
    "shape": list_of(whole(1, 1 << 31), 4, 4),
    "dtype": one_of("uint8", "int8", "uint16", "int16", "int32", "uint32", "int64"),
})  # fmt: skip
_PART = table({"tensor": text, "first": whole(), "height": whole(1), "width": whole(1)})
_LAYER = table(
    {"name": text},
    {
        "operation": text, "kernel": text, "why": text, "output": list_of(whole()), "macs": whole(),
        "executed_macs": whole(), "weight_bits": whole(), "choice": nothing_or(table_of(anything)),
        "tuned": text,
        "weight_bytes": _BYTES, "input_bytes": _BYTES, "output_bytes": _BYTES,
        "results": list_of(list_of(_PART)),
    },
)  # fmt: skip
_WEIGHTS = table(
    {"by_bits": table_of(table({"tensors": whole(), "weights": whole(), "bytes": _BYTES}))},
    {"expanded_bytes": _BYTES},
)
_CALL = {
    "function": whole(), "grid": whole(1), "threads": whole(1, 1024), "shared": whole(),
    "pointers": list_of(whole(-1)), "numbers": list_of(whole(-(1 << 31), (1 << 31) - 1)),
}  # fmt: skip
_LAUNCHES = table(
    {
        "images": whole(1, 4096), "code_bytes": _BYTES, "stored_bytes": _BYTES, "memory_bytes": _BYTES,
        "functions": list_of(text),
        "prepare": list_of(table(_CALL)), "run": list_of(table({**_CALL, "layer": whole()})),
        "inputs": list_of(whole()), "outputs": list_of(whole()),
    },
    {"code": list_of(text), "assembler": list_of(table_of(anything))},
)  # fmt: skip
_TARGET = table(
    {"name": text, "architecture": text, "features": list_of(text)},
    {
        "profile": text,
        "triple": text,
        "cpu": text,
        "attributes": list_of(text),
        "kernels": text,
        "backend": text,
        "card": text,
        "toolkit": text,
    },
)
_PROGRAM = table(
    {"tvm_version": text, "target": _TARGET, "inputs": list_of(_TENSOR), "outputs": list_of(_TENSOR)},
    {
        "format": whole(), "aqd_deploy_version": text, "threads": nothing_or(whole(1, 4096)),
        "sha256": table({"integer_model": text}, {"source": nothing_or(text)}), "weights": _WEIGHTS,
        "launches": _LAUNCHES,
        "layers": list_of(_LAYER), "memory": table_of(_BYTES), "tuning": table_of(anything),
        "compile_seconds": table_of(number(0)),
    },
)  # fmt: skip
_MANIFEST = table({"program": _PROGRAM}, MODEL_KEYS)
_PACKAGED = table({
    "program": table({
        "aqd_deploy_version": text, "threads": whole(1, 4096), "weights": _WEIGHTS,
        "inputs": list_of(_TENSOR, 1), "sha256": table({"integer_model": text}),
        "target": table({"profile": text, "triple": text, "cpu": text, "attributes": list_of(text)}),
    }),
})  # fmt: skip


def unpack_manifest(packed: bytes, name: str) -> dict[str, Any]:
    """The manifest in the zlib stream `packed` of the program `name`, checked.

    Raises ProgramError where it is not a whole stream, larger than `MANIFEST_LIMIT`, not JSON, or misses what
    a program says of itself. `container.read_container` has compared its hash before, which says that it is
    undamaged, not that it was written by `compile`.
    """
    stream = zlib.decompressobj()
    try:
        unpacked = stream.decompress(packed, MANIFEST_LIMIT)
    except zlib.error as error:
        raise _invalid(name, f"no zlib stream ({error})") from error
    if stream.unconsumed_tail:
        raise _invalid(name, f"more than {MANIFEST_LIMIT} bytes")
    if not stream.eof:
        raise _invalid(name, "a zlib stream that ends too early")
    try:
        manifest: dict[str, Any] = parse_json(unpacked)
    except ValueError as error:
        raise _invalid(name, f"no JSON document ({error})") from error
    _check(manifest, _MANIFEST, name)
    return manifest


def check_packaged(manifest: dict[str, Any], name: str) -> None:
    """Raise ProgramError where `manifest` misses what a bundle says of its program."""
    _check(manifest, _PACKAGED, name)


def _check(manifest: Any, schema: Any, name: str) -> None:
    try:
        schema(manifest, "")
    except SchemaError as error:
        raise error.of(f"the manifest of the program {name}", ProgramError, _RECOMPILE) from error


def _invalid(name: str, received: str) -> ProgramError:
    return ProgramError(
        f"the manifest of the program {name} is not valid", received=received,
        next_command=_RECOMPILE,
    )  # fmt: skip
