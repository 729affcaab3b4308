"""What a network would take on a device that is not there, from its profile's figures: an estimate, no
measurement.

Every layer takes the longer of two times: its executed multiplications at the cores' peak rate, and its bytes
(weights as expanded, input, output) at the peak bandwidth of main memory, each moved once. So it is a bound
that no program beats by much where tensors don't fit the caches, and that real programs miss by their
overheads. The cores of a card are its multiprocessors. Beside it stands what a simulator of a CPU's pipelines
says of the inner loops (`inner_loops`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aqd_deploy.errors import ProgramError
from aqd_deploy.kernels.backends import check_backend, is_card
from aqd_deploy.schema import SchemaError, list_of, table, whole
from aqd_deploy.targets import Target

if TYPE_CHECKING:
    import onnx

WHAT = "estimate from a profile's figures, not measured"
_COMPUTE_KEYS = ("clock_ghz", "int8_macs_per_cycle")
_MEMORY_KEYS = ("bandwidth_gb_s",)
_LAYERS = list_of(table({
    "weight_bytes": whole(), "input_bytes": whole(), "output_bytes": whole(), "output": list_of(whole()),
}), 1)  # fmt: skip
_SHARED = ("name", "operation", "kernel", "weight_bits")


@dataclass(frozen=True)
class _Table:
    """A manifest's layers, the target that their kernels are for, and their inner loops: an entry of
    `inner_loops.inner_loops` or None a layer, and why some are None.
    """

    layers: Sequence[dict[str, Any]]
    compiled_for: str
    loops: Sequence[dict[str, Any] | None] = field(default=())
    loops_note: str = ""


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
    lacks is listed in `missing_keys`, and whatever follows from it is None. `inner_loops` says for whose
    pipelines inner loops were simulated, and in `note` why some or all were not.

    Raises ModelFileError, UnsupportedModelError or ProgramError for a file that cannot be used, TargetError
    for an unknown backend.
    """
    check_backend(target.backend)
    counts = list(threads or [target.cores or 1])
    table = (
        _program_table(path)
        if path.suffix == ".so"
        else _model_table(path, target, counts[0], shape, numerics, progress)
    )
    loops = table.loops or [None] * len(table.layers)
    work = [layer_work(layer, target, loop) for layer, loop in zip(table.layers, loops, strict=True)]
    figures = {key: getattr(target, key) for key in ("cores", *_COMPUTE_KEYS, *_MEMORY_KEYS)}
    return {
        "what": WHAT,
        "file": str(path),
        "profile": target.name,
        "compiled_for": table.compiled_for,
        "figures": figures,
        "sources": {key: target.sources[key] for key in figures if key in target.sources},
        "missing_keys": [key for key in (*_COMPUTE_KEYS, *_MEMORY_KEYS) if figures[key] is None],
        "inner_loops": {"cpu": target.cpu, "note": table.loops_note},
        "estimates": [_for_threads(work, target, count) for count in counts],
    }


def layer_work(layer: dict[str, Any], target: Target, loop: dict[str, Any] | None = None) -> dict[str, Any]:
    """What one layer of a manifest's table asks of a device, for any number of cores: multiplications, bytes,
    their ratio, the time of the bytes in ms, and the cycles of its inner loop.
    """
    multiplications = layer.get("executed_macs") or layer.get("macs", 0)
    moved = layer["weight_bytes"] + layer["input_bytes"] + layer["output_bytes"]
    return {
        **{key: layer.get(key) for key in _SHARED},
        "output": list(layer["output"]),
        "multiplications": multiplications,
        "weight_bytes": layer["weight_bytes"],
        "input_bytes": layer["input_bytes"],
        "output_bytes": layer["output_bytes"],
        "bytes": moved,
        "multiplications_per_byte": round(multiplications / moved, 3) if moved else None,
        "memory_ms": moved / (target.bandwidth_gb_s * 1e9) * 1e3 if target.bandwidth_gb_s else None,
        "inner_loop": loop,
        "inner_loop_cycles": round(loop["cycles_per_product"] * multiplications) if loop else None,
    }


def layer_estimate(work: dict[str, Any], target: Target, cores: int) -> dict[str, Any]:
    """`layer_work` with what follows from the number of cores: the times in ms of the multiplications and of
    the inner loop, the longer of compute and memory, and which it is.
    """
    rate, cycles = peak_of(target, cores), work["inner_loop_cycles"]
    compute, memory = (work["multiplications"] / rate * 1e3 if rate else None), work["memory_ms"]
    bound = slowest = None
    if compute is not None and memory is not None:
        bound, slowest = ("compute", compute) if compute > memory else ("memory", memory)
    return {
        **work,
        "compute_ms": compute,
        "inner_loop_ms": cycles / (target.clock_ghz * 1e6 * cores) if cycles and target.clock_ghz else None,
        "bound": bound,
        "ms": slowest,
    }


def peak_of(target: Target, cores: int) -> float | None:
    """Multiplications a second of `cores` cores, None where the profile does not tell."""
    if target.clock_ghz is None or target.int8_macs_per_cycle is None:
        return None
    return target.clock_ghz * 1e9 * target.int8_macs_per_cycle * cores


def _cycles(work: Sequence[dict[str, Any]], target: Target, cores: int) -> int | None:
    """What all multiplications take at the peak of `cores` cores, whatever their clock; None where the
    profile does not tell the peak.
    """
    if target.int8_macs_per_cycle is None:
        return None
    return round(sum(layer["multiplications"] for layer in work) / (target.int8_macs_per_cycle * cores))


def _for_threads(work: Sequence[dict[str, Any]], target: Target, threads: int) -> dict[str, Any]:
    cores = min(threads, target.cores or threads)
    entries = [layer_estimate(layer, target, cores) for layer in work]
    times = [entry["ms"] for entry in entries]
    return {
        "threads": threads,
        "cores_used": cores,
        "total_ms": None if None in times else sum(times),
        "multiplications": sum(entry["multiplications"] for entry in entries),
        "multiplication_cycles": _cycles(work, target, cores),
        "bytes": sum(entry["bytes"] for entry in entries),
        "compute_bound_layers": sum(entry["bound"] == "compute" for entry in entries),
        "memory_bound_layers": sum(entry["bound"] == "memory" for entry in entries),
        "layers": entries,
    }


def _program_table(path: Path) -> _Table:
    from aqd_deploy.runtime.container import read_manifest

    program = read_manifest(path)["program"]
    layers = program.get("layers")
    try:
        _LAYERS(layers, "layers")
    except SchemaError as error:
        raise ProgramError(
            f"{path} does not tell the bytes of its layers ({error})",
            received=f"a program of aqd-deploy {program.get('aqd_deploy_version', 'unknown')}",
            next_command="aqd-deploy compile MODEL.onnx -o PROGRAM.so",
        ) from None
    note = "inner loops are simulated for an ONNX file; name the program's model in its place"
    return _Table(layers, program["target"]["name"], loops_note=note)


def _model_table(
    path: Path,
    target: Target,
    threads: int,
    shape: tuple[int, ...] | None,
    numerics: str,
    progress: Callable[[str], None],
) -> _Table:
    """The table that compiling the model for `target` would write."""
    from aqd_deploy.integer.files import load_onnx
    from aqd_deploy.passes.integer_model import integer_model

    model, _ = integer_model(
        load_onnx(path), numerics=numerics, shape=shape, on_lowering=lambda: progress("lowering")
    )
    progress(f"choosing the kernels for {target.name} ({target.kernels})")
    if is_card(target.backend):
        return _card_table(model, target)
    return _cpu_table(model, target, threads, progress)


def _card_table(model: onnx.ModelProto, target: Target) -> _Table:
    from aqd_deploy.compiler.launches import build_launches
    from aqd_deploy.compiler.planning import plan_for_card
    from aqd_deploy.kernels.backends import card_backend_of

    built = build_launches(plan_for_card(model), card_backend_of(target), images=1)
    return _Table([asdict(layer) for layer in built.layers], target.name)


def _cpu_table(
    model: onnx.ModelProto, target: Target, threads: int, progress: Callable[[str], None]
) -> _Table:
    from aqd_deploy.bench.inner_loops import inner_loops
    from aqd_deploy.compiler import relax_module
    from aqd_deploy.compiler.planning import plan_model
    from aqd_deploy.kernels.backends import backend_of
    from aqd_deploy.records.lookup import load_tuned

    built = relax_module.build_relax(
        plan_model(model), backend_of(target), threads, load_tuned("none", target)
    )
    loops, note = inner_loops(built, target, progress)
    return _Table([asdict(layer) for layer in built.layers], target.name, loops, note)
