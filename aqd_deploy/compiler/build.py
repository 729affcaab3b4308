"""Integer ONNX → one program file: plan, Relax, machine code, shared library, manifest.

The bytes of the file depend on the model, the target, the number of threads, the tuning records and the
versions of this package, TVM and the compiler that links, and on nothing else: no time, no folder, no order
of a hash table. So whoever has the model can compile it again and compare.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from aqd_deploy.compiler.plan import Plan
from aqd_deploy.compiler.planning import plan_model
from aqd_deploy.compiler.toolchain import Toolchain, find_toolchain, native_toolchain
from aqd_deploy.detection.interface import check_interface
from aqd_deploy.errors import StorageError, line_of
from aqd_deploy.files import TemporaryFolder, told_failure
from aqd_deploy.integer.manifest import read_manifest
from aqd_deploy.kernels.backends import backend_of, check_backend
from aqd_deploy.runtime.container import (
    FORMAT_VERSION,
    append_manifest,
    check_program_output,
    write_atomically,
)
from aqd_deploy.targets import DEFAULT_BACKEND, Target, get
from aqd_deploy.targets.cpu import usual_threads

if TYPE_CHECKING:
    from aqd_deploy.compiler.program_data import ProgramData
    from aqd_deploy.compiler.relax_module import BuiltModule
    from aqd_deploy.records.lookup import Tuned


@dataclass
class CompileReport:
    """What `compile_model` wrote: the file, its size, the manifest, and the seconds of each stage, which are
    not in the file: two compilations give equal bytes. `of_other_cpus` are those of the manifest's notes on
    tuning records that say only that records are of another CPU.
    """

    path: Path
    file_bytes: int
    manifest: dict[str, Any]
    seconds: dict[str, float]
    of_other_cpus: list[str] = field(default_factory=list)

    @property
    def total_seconds(self) -> float:
        """Wall-clock seconds of the whole compilation."""
        return sum(self.seconds.values())


@dataclass
class _Stages:
    on_stage: Callable[[str], None]
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        self.on_stage(name)
        started = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - started, 3)


def compile_model(
    int_model: onnx.ModelProto,
    out: Path,
    *,
    target: str | Target = "host",
    threads: int | None = None,
    source: Path | None = None,
    tuned: str | Path | None = None,
    toolchain: Toolchain | None = None,
    on_stage: Callable[[str], None] = lambda _: None,
    on_target: Callable[[Target], None] = lambda _: None,
) -> CompileReport:
    """Compile integer ONNX (docs/integer-dialect.md) into the program file `out`.

    `target` is a profile's name or a TVM target string; `threads` how many threads the program will run with
    (default: all of the device); `source` the file that the model came from, recorded by its SHA-256; `tuned`
    a folder of tuning records, "none", or None for those that ship; `toolchain` what `find_toolchain` gave;
    `on_stage` is told each stage of `CompileReport.seconds` as it begins, `on_target` for what kernels are
    written, with all that LLVM knows of its CPU, before they are. `out` is written whole or not.

    Raises UnsupportedModelError, ShapeError and RangeError for a model outside the dialect, ModelFileError
    for a manifest that tells of another input or other outputs than the graph has, TargetError for an unknown
    target or backend, RecordsError where `tuned` holds no records, ProgramError where `out` cannot be
    written, MissingExtraError where no compiler for the target is installed (before anything is compiled).
    """
    out = Path(out)
    device = get(target)
    check_program_output(out)
    check_backend(device.backend)
    toolchain = toolchain or find_toolchain(device)
    threads = threads or default_threads(device)
    stages = _Stages(on_stage)
    with stages.timed("plan"):
        plan = plan_model(int_model)
    with stages.timed("import_compiler"):
        from aqd_deploy.compiler import lower, relax_module
        from aqd_deploy.records.lookup import load_tuned
    device = lower.complete_target(device)
    backend = backend_of(device)
    on_target(device)
    choices = load_tuned(tuned, device)
    program = _program_section(plan, int_model, device, threads, source)
    manifest = {**read_manifest(int_model), "program": program}
    check_interface(manifest, *(_shapes(program[ports]) for ports in ("inputs", "outputs")))
    with stages.timed("kernels"):
        built = relax_module.build_relax(plan, backend, threads, choices)
    program |= _built_section(built, choices)
    tvm_target = lower.codegen_target(device)
    with stages.timed("relax"):
        lowered = lower.lower_relax(built.module, tvm_target)
    with stages.timed("codegen"):
        executable = lower.generate(lowered, tvm_target)

    def write(path: Path) -> None:
        with stages.timed("link"):
            _export(executable, built.data, path, toolchain)
        append_manifest(path, manifest)

    write_atomically(out, write)
    return CompileReport(out, out.stat().st_size, manifest, stages.seconds, choices.of_other_cpus)


def default_threads(device: Target) -> int:
    """The cores of the device where its profile tells them, else how many threads this process uses."""
    return device.cores if device.cores and not device.is_host else usual_threads()


def memory_summary(built: BuiltModule) -> dict[str, int]:
    """Bytes of tensors in one run: all, those in the arena, outputs, and the least that the order needs. What
    kernels need beside them, for all threads of the one that needs most, is `scratch_bytes`.
    """
    memory = built.memory
    return {
        "bytes": memory.bytes,
        "arena_bytes": memory.arena_bytes,
        "output_bytes": memory.output_bytes,
        "lower_bound_bytes": memory.lower_bound_bytes,
        "scratch_bytes": built.scratch_bytes,
    }


def weight_summary(built: BuiltModule) -> dict[str, Any]:
    """Weights and the bytes they take in the file, by bit width, and their bytes when expanded."""
    by_bits: dict[str, dict[str, int]] = {}
    for weight in built.weights.values():
        entry = by_bits.setdefault(str(weight.bits), {"tensors": 0, "weights": 0, "bytes": 0})
        entry["tensors"] += 1
        entry["weights"] += int(weight.shape[0] * weight.shape[1] * weight.shape[2] * weight.shape[3])
        entry["bytes"] += weight.nbytes
    return {"by_bits": dict(sorted(by_bits.items())), "expanded_bytes": built.expanded_bytes}


def tuning_summary(built: BuiltModule, tuned: Tuned) -> dict[str, Any]:
    """How many convolutions were built with a choice of their own record, with one of the same shape, and
    with the cost model's; and which records were ignored.
    """
    origins = [layer.tuned for layer in built.layers if layer.choice is not None]
    notes = list(tuned.notes)
    if built.stale_choices:
        notes.append(f"{built.stale_choices} recorded choices are ignored: their kernels no longer have them")
    return {
        "records": tuned.source,
        "task": origins.count("task"),
        "shape": origins.count("shape"),
        "default": origins.count(""),
        "notes": notes,
    }


def _program_section(
    plan: Plan, model: onnx.ModelProto, device: Target, threads: int, source: Path | None
) -> dict[str, Any]:
    return {
        "format": FORMAT_VERSION,
        "aqd_deploy_version": metadata.version("aqd-deploy"),
        "tvm_version": metadata.version("apache-tvm"),
        "target": {
            "name": device.name,
            "profile": device.profile,
            "architecture": device.architecture,
            "triple": device.triple,
            "cpu": device.cpu,
            "attributes": list(device.attributes),
            "features": list(device.features),
            "kernels": device.kernels,
            **({} if device.backend == DEFAULT_BACKEND else {"backend": device.backend}),
        },
        "threads": threads,
        "inputs": [_describe(plan, name) for name in plan.inputs],
        "outputs": [_describe(plan, name) for name in plan.outputs],
        "sha256": {
            "integer_model": hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest(),
            "source": _file_hash(source) if source is not None else None,
        },
    }


def _built_section(built: BuiltModule, choices: Tuned) -> dict[str, Any]:
    return {
        "weights": weight_summary(built),
        "layers": [asdict(layer) for layer in built.layers],
        "memory": memory_summary(built),
        "tuning": tuning_summary(built, choices),
    }


def _describe(plan: Plan, name: str) -> dict[str, Any]:
    info = plan.tensors[name]
    return {"name": name, "shape": list(info.nchw), "dtype": info.dtype}


def _shapes(ports: list[dict[str, Any]]) -> dict[str, list[int]]:
    return {port["name"]: port["shape"] for port in ports}


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _export(executable: Any, data: ProgramData, path: Path, toolchain: Toolchain) -> None:
    """Write the shared library. Raises StorageError where its objects cannot be written, which TVM reports as
    its own kind of RuntimeError, and what a toolchain raises.
    """
    temporary = TemporaryFolder()
    with temporary as folder, temporary.writing():
        source = data.write_source(folder)

        def link(output: str, objects: list[str], options: list[str] | None = None, **_: Any) -> None:
            toolchain.link(output, [*objects, source], options)

        try:
            executable.export_library(str(path), fcompile=link, workspace_dir=str(folder))
        except RuntimeError as error:
            told = line_of(error, -1)
            raise told_failure(str(error), folder) or StorageError(
                "TVM cannot write its objects", received=told
            ) from error


def link(output: str, objects: list[str], options: list[str] | None = None, **_: Any) -> None:
    """Link `objects` into the shared library `output` with this machine's own compiler."""
    native_toolchain().link(output, objects, options)
