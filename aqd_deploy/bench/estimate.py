"""What a network would take on a device that is not there, from its profile's figures: an estimate, no
measurement.

Every layer takes the longer of two times: its executed multiplications at the cores' peak rate, and its bytes
(weights as expanded, input, output) at the peak bandwidth of main memory, each moved once. So it is a bound
that no program beats by much where tensors don't fit the caches, and that real programs miss by their
overheads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aqd_deploy.errors import ProgramError
from aqd_deploy.targets import Target

WHAT = "estimate from a profile's figures, not measured"
_COMPUTE_KEYS = ("clock_ghz", "int8_macs_per_cycle")
_MEMORY_KEYS = ("bandwidth_gb_s",)
_SHARED = ("name", "operation", "kernel", "weight_bits")


def estimate(
    path: Path,
    target: Target,
    *,
    threads: Sequence[int] | None = None,
    shape: tuple[int, ...] | None = None,
    numerics: str = "exact",
    progress: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """The JSON-able estimate of the program or ONNX file (QDQ or integer) at `path` on `target`.

    `estimates` has an entry for each of `threads` (default: the profile's cores). A figure that the profile
    lacks is listed in `missing_keys`, and whatever follows from it is None.

    Raises ModelFileError, UnsupportedModelError or ProgramError for a file that cannot be used.
    """
    counts = list(threads or [target.cores or 1])
    layers, compiled_for = _layers(path, target, counts[0], shape, numerics, progress)
    figures = {key: getattr(target, key) for key in ("cores", *_COMPUTE_KEYS, *_MEMORY_KEYS)}
    return {
        "what": WHAT,
        "file": str(path),
        "profile": target.name,
        "compiled_for": compiled_for,
        "figures": figures,
        "sources": {key: target.sources[key] for key in figures if key in target.sources},
        "missing_keys": [key for key in (*_COMPUTE_KEYS, *_MEMORY_KEYS) if figures[key] is None],
        "estimates": [_for_threads(layers, target, count) for count in counts],
    }


def layer_estimate(layer: dict[str, Any], target: Target, cores: int) -> dict[str, Any]:
    """One layer of a manifest's table: multiplications, bytes, their ratio, both times in ms, the bound."""
    multiplications = layer.get("executed_macs") or layer.get("macs", 0)
    moved = layer["weight_bytes"] + layer["input_bytes"] + layer["output_bytes"]
    rate = _rate(target, cores)
    compute = multiplications / rate * 1e3 if rate else None
    memory = moved / (target.bandwidth_gb_s * 1e9) * 1e3 if target.bandwidth_gb_s else None
    bound = slowest = None
    if compute is not None and memory is not None:
        bound, slowest = ("compute", compute) if compute > memory else ("memory", memory)
    return {
        **{key: layer.get(key) for key in _SHARED},
        "output": list(layer["output"]),
        "multiplications": multiplications,
        "weight_bytes": layer["weight_bytes"],
        "input_bytes": layer["input_bytes"],
        "output_bytes": layer["output_bytes"],
        "bytes": moved,
        "multiplications_per_byte": round(multiplications / moved, 3) if moved else None,
        "compute_ms": compute,
        "memory_ms": memory,
        "bound": bound,
        "ms": slowest,
    }


def _rate(target: Target, cores: int) -> float | None:
    """Multiplications a second of `cores` cores, None where the profile does not tell."""
    if target.clock_ghz is None or target.int8_macs_per_cycle is None:
        return None
    return target.clock_ghz * 1e9 * target.int8_macs_per_cycle * cores


def _for_threads(layers: Sequence[dict[str, Any]], target: Target, threads: int) -> dict[str, Any]:
    cores = min(threads, target.cores or threads)
    entries = [layer_estimate(layer, target, cores) for layer in layers]
    times = [entry["ms"] for entry in entries]
    return {
        "threads": threads,
        "cores_used": cores,
        "total_ms": None if None in times else sum(times),
        "multiplications": sum(entry["multiplications"] for entry in entries),
        "bytes": sum(entry["bytes"] for entry in entries),
        "compute_bound_layers": sum(entry["bound"] == "compute" for entry in entries),
        "memory_bound_layers": sum(entry["bound"] == "memory" for entry in entries),
        "layers": entries,
    }


def _layers(
    path: Path,
    target: Target,
    threads: int,
    shape: tuple[int, ...] | None,
    numerics: str,
    progress: Callable[[str], None],
) -> tuple[list[dict[str, Any]], str]:
    """The layer table, and the name of the target that its kernels are for."""
    if path.suffix == ".so":
        return _program_layers(path)
    return _model_layers(path, target, threads, shape, numerics, progress), target.name


def _program_layers(path: Path) -> tuple[list[dict[str, Any]], str]:
    from aqd_deploy.runtime.container import read_manifest

    program = read_manifest(path)["program"]
    layers = program.get("layers") or []
    if not layers or "input_bytes" not in layers[0]:
        raise ProgramError(
            f"{path} does not tell the bytes of its layers",
            received=f"a program of aqd-deploy {program.get('aqd_deploy_version', 'unknown')}",
            next_command="aqd-deploy compile MODEL.onnx -o PROGRAM.so",
        )
    return layers, program["target"]["name"]


def _model_layers(
    path: Path,
    target: Target,
    threads: int,
    shape: tuple[int, ...] | None,
    numerics: str,
    progress: Callable[[str], None],
) -> list[dict[str, Any]]:
    """The table that compiling the model for `target` would write: kernels are chosen, no code is made."""
    from aqd_deploy.compiler import relax_module
    from aqd_deploy.compiler.planning import plan_model
    from aqd_deploy.frontends.kinds import kind_of
    from aqd_deploy.integer.files import load_onnx
    from aqd_deploy.kernels.core import Core
    from aqd_deploy.kernels.isa import Isa
    from aqd_deploy.passes.pipeline import lower
    from aqd_deploy.tuning.lookup import load_tuned

    model = load_onnx(path)
    if kind_of(model) != "integer":
        progress("lowering")
        model = lower(model, numerics=numerics, shape=shape).model
    progress(f"choosing the kernels for {target.name} ({target.kernels})")
    built = relax_module.build_relax(
        plan_model(model), Isa(target.kernels), threads, load_tuned("none", target), Core.of(target)
    )
    return [asdict(layer) for layer in built.layers]
