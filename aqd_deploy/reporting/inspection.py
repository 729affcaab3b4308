"""What a file is, in one JSON-able document: QDQ or integer ONNX, compiled program, bundle, checkpoint."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from aqd_deploy.bench.cost import cost_of
from aqd_deploy.errors import ModelFileError
from aqd_deploy.frontends.export import CHECKPOINT_SUFFIXES
from aqd_deploy.integer.arithmetic import weight_bits
from aqd_deploy.integer.domain import DOMAIN
from aqd_deploy.integer.files import load_onnx, parse_onnx
from aqd_deploy.integer.inspect import float_tensors
from aqd_deploy.integer.kinds import QONNX_DOMAINS, kind_of
from aqd_deploy.integer.manifest import read_manifest
from aqd_deploy.integer.operations import find_operation
from aqd_deploy.integer.operations.convolution import Convolution
from aqd_deploy.integer.reader import read_graph
from aqd_deploy.integer.tail import read_tail, tail_path
from aqd_deploy.reporting.explanation import tail_summary

_WEIGHT_SLOTS = {
    "Conv": 1, "ConvTranspose": 1, "FusedConv": 1, "Gemm": 1, "MatMul": 1, "MatMulInteger": 1,
    "QLinearConv": 3, "QLinearMatMul": 3, "QGemm": 3,
}  # fmt: skip
"""Which input of an operator is its weights."""
KINDS = ".onnx (quantized, integer or float), .so (a program), .pt (a checkpoint), or a bundle's folder"


def inspect_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Describe a file by what it is: `kind` is one of `kind_of` (an ONNX file), program, bundle (a folder) or
    checkpoint.

    Raises ModelFileError, ProgramError, BundleError, CheckpointError, ScaleError or UnsupportedModelError
    where the file cannot be read as what its name says.
    """
    path = Path(path)
    if path.is_dir():
        return {"file": str(path), **_bundle(path)}
    readers = {".onnx": _onnx, ".so": _program, **dict.fromkeys(CHECKPOINT_SUFFIXES, _checkpoint)}
    if path.suffix not in readers:
        there = os.path.lexists(path)
        what = "this kind of file is not known" if there else "there is no such file or folder"
        raise ModelFileError(what, received=str(path), valid=KINDS)
    return {"file": str(path), **readers[path.suffix](path)}


def _onnx(path: Path) -> dict[str, Any]:
    model = load_onnx(path)
    kind, manifest = kind_of(model), read_manifest(model)
    weights = {tensor.name for tensor in model.graph.initializer}
    document: dict[str, Any] = {
        "kind": kind,
        "bytes": path.stat().st_size,
        "nodes": len(model.graph.node),
        "operators": dict(Counter(_operator(node) for node in model.graph.node).most_common()),
        # Files of IR version 3 name their weights among the inputs.
        "inputs": [_value(value) for value in model.graph.input if value.name not in weights],
        "outputs": [_value(value) for value in model.graph.output],
        "weights": _weights(model),
        **_tail(path, manifest),
    }
    if kind == "integer":
        graph = read_graph(model)
        document["cost"] = cost_of(graph, file_bytes=path.stat().st_size).told()
        names = float_tensors(model)
        document["float_tensors"] = {"count": len(names), "names": names[:20]}
        document["ranges"] = manifest.pop("ranges", {})
    document["manifest"] = manifest
    return document


def _operator(node: Any) -> str:
    return f"{DOMAIN}.{node.op_type}" if node.domain == DOMAIN else node.op_type


def _value(value: Any) -> dict[str, Any]:
    kind = value.type.tensor_type
    shape = [dimension.dim_value or dimension.dim_param or None for dimension in kind.shape.dim]
    return {"name": value.name, "dtype": _dtype(kind.elem_type), "shape": shape}


def _dtype(element: int) -> str:
    import onnx

    return str(onnx.helper.tensor_dtype_to_np_dtype(element)) if element else "unknown"


def _tail(owner: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """`tail`: what the tail is, or what is wrong with it; nothing where there is none."""
    path = tail_path(owner)
    try:
        data = read_tail(owner, manifest)
        return {} if data is None else {"tail": tail_summary(parse_onnx(data, path), path)}
    except ModelFileError as error:
        return {"tail": {"file": str(path), "problem": error.what}}


def _weights(model: ModelProto) -> dict[str, Any]:
    """Number of weights of convolutions and matrix products by the bits that they take."""
    found: dict[str, int] = {}
    producers = {name: node for node in model.graph.node for name in node.output if node.input}
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    seen = set()
    for node in model.graph.node:
        entry = find_operation(node.domain, node.op_type)
        slot = 1 if isinstance(entry, Convolution) else _WEIGHT_SLOTS.get(node.op_type)
        if slot is None or slot >= len(node.input):
            continue
        name, bits = _source(node.input[slot], tensors, producers)
        if name in tensors and name not in seen:
            seen.add(name)
            array = numpy_helper.to_array(tensors[name])
            kind = bits or _bits(array, isinstance(entry, Convolution) and entry.takes_bytes)
            found[kind] = found.get(kind, 0) + int(array.size)
    return {"count": sum(found.values()), "by_bits": dict(sorted(found.items()))}


def _source(
    name: str, tensors: Mapping[str, TensorProto], producers: Mapping[str, NodeProto]
) -> tuple[str, str]:
    """The tensor that `name` is made of by quantizers and the like, and the bits that a Quant of QONNX says,
    empty where none does.
    """
    bits, passed = "", set()
    while name not in tensors and name in producers and name not in passed:
        passed.add(name)
        node = producers[name]
        if node.domain in QONNX_DOMAINS and len(node.input) > 3 and node.input[3] in tensors:
            bits = f"{float(numpy_helper.to_array(tensors[node.input[3]])):g}"
        name = node.input[0]
    return name, bits


def _bits(array: np.ndarray, bytes_: bool) -> str:
    """Bits of a tensor of integers (`weight_bits`); `float`, or its type's name. `bytes_`: they take 8
    whatever their values.
    """
    if array.dtype == np.float32:
        return "float"
    known = bytes_ or not array.size or str(array.dtype).startswith(("int", "uint"))
    return str(weight_bits(array, bytes_)) if known else str(array.dtype)


def _program(path: Path) -> dict[str, Any]:
    from aqd_deploy.runtime.container import read_container

    container = read_container(path)
    manifest = dict(container.manifest)
    manifest.pop("ranges", None)
    return {
        "kind": "program",
        **_tail(path, container.manifest),
        "bytes": container.file_bytes,
        "weights": _bytes_per_weight(manifest.get("program", {}).get("weights", {})),
        "manifest": manifest,
    }


def _bundle(folder: Path) -> dict[str, Any]:
    """The program in a bundle, and the files around it, each compared with its recorded hash."""
    from aqd_deploy.bundle import read_bundle
    from aqd_deploy.runtime.bundle_files import program_file

    program = program_file(folder)
    bundle = read_bundle(folder)
    return {
        **_program(program),
        "kind": "bundle",
        "bytes": bundle.total_bytes,
        "files": bundle.files,
        "needs": bundle.manifest.get("needs", {}),
    }


def _bytes_per_weight(weights: dict[str, Any]) -> dict[str, Any]:
    by_bits = {
        bits: {**entry, "bytes_per_weight": round(entry["bytes"] / entry["weights"], 4)}
        for bits, entry in weights.get("by_bits", {}).items()
        if entry.get("weights")
    }
    count = sum(entry["weights"] for entry in by_bits.values())
    stored = sum(entry["bytes"] for entry in by_bits.values())
    return {
        "count": count,
        "bytes": stored,
        "bytes_per_weight": round(stored / count, 4) if count else None,
        "by_bits": by_bits,
    }


def _checkpoint(path: Path) -> dict[str, Any]:
    import dataclasses

    from aqd_deploy.errors import MissingExtraError

    try:
        from aqd_deploy.qat.checkpoint import checkpoint_record
        from aqd_deploy.qat.sources import load_detector
    except ImportError as error:
        raise MissingExtraError(
            "reading a checkpoint needs torch", next_command="pip install 'aqd-deploy[torch]'"
        ) from error
    model, origin = load_detector(path)
    return {
        "kind": "checkpoint",
        "bytes": path.stat().st_size,
        "config": dataclasses.asdict(model.config),
        "record": checkpoint_record(path) if origin is None else origin.source,
        "weights": {
            "count": sum(p.numel() for name, p in model.named_parameters() if name.endswith("weight"))
        },
    }
