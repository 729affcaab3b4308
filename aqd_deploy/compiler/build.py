"""Integer ONNX → one program file: plan, Relax, machine code, shared library, manifest.

The bytes of the file depend on the model, the target, the number of threads, the tuning records and the
versions of this package, TVM and the compiler that links, and on nothing else: no time, no folder, no order
of a hash table. So whoever has the model can compile it again and compare.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import onnx

from aqd_deploy.compiler.card_code import CardMaker
from aqd_deploy.compiler.cpu_code import CpuMaker
from aqd_deploy.compiler.nvcc import CudaCompiler, find_cuda_compiler
from aqd_deploy.compiler.plan import Plan
from aqd_deploy.compiler.stages import Stages
from aqd_deploy.compiler.toolchain import Toolchain, find_toolchain
from aqd_deploy.detection.interface import check_interface
from aqd_deploy.integer.manifest import read_manifest
from aqd_deploy.kernels.backends import check_backend, is_card
from aqd_deploy.runtime.container import (
    FORMAT_VERSION,
    append_manifest,
    check_program_output,
    write_atomically,
)
from aqd_deploy.targets import DEFAULT_BACKEND, Target, get
from aqd_deploy.targets.cpu import usual_threads

if TYPE_CHECKING:
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
    of_other_cpus: Sequence[str] = field(default_factory=list)

    @property
    def total_seconds(self) -> float:
        """Wall-clock seconds of the whole compilation."""
        return sum(self.seconds.values())


class Maker(Protocol):
    """What makes the code of a program. `of_other_cpus` as in `CompileReport`."""

    of_other_cpus: Sequence[str]

    def plan(self, model: onnx.ModelProto) -> Plan:
        """The plan of integer ONNX."""

    def complete(self, stages: Stages) -> Target:
        """The target with all that is known of it."""

    def told(self) -> dict[str, str]:
        """What the manifest says of the target beside its profile."""

    def build(self, plan: Plan, stages: Stages) -> dict[str, Any]:
        """Make the code; returns what the manifest says of it in its section `program`."""

    def write(self, path: Path, stages: Stages) -> None:
        """Write what was made to `path`, an ELF file."""


def compile_model(
    int_model: onnx.ModelProto,
    out: Path,
    *,
    target: str | Target = "host",
    threads: int | None = None,
    source: Path | None = None,
    tuned: str | Path | Tuned | None = None,
    toolchain: Toolchain | CudaCompiler | None = None,
    images: int = 1,
    on_stage: Callable[[str], None] = lambda _: None,
    on_target: Callable[[Target], None] = lambda _: None,
) -> CompileReport:
    """Compile integer ONNX (docs/integer-dialect.md) into the program file `out`.

    `target` is a profile's name or a TVM target string; `threads` how many threads the program will run with
    (default: all of the device); `source` the file that the model came from, recorded by its SHA-256; `tuned`
    a folder of tuning records, "none", None for those that ship, or choices; `toolchain` what `find_compiler`
    gave; `images` how many a run takes, more than one on a card only; `on_stage` is told each stage of
    `CompileReport.seconds` as it begins, `on_target` for what kernels are written, with all that LLVM knows
    of its CPU, before they are. `out` is written whole or not.

    Raises UnsupportedModelError, ShapeError and RangeError for a model outside the dialect, ModelFileError
    for a manifest that tells of another input or other outputs than the graph has, TargetError for an unknown
    target or backend, RecordsError where `tuned` holds no records, ProgramError where `out` cannot be
    written, MissingExtraError where no compiler for the target is installed (before anything is compiled).
    """
    out = Path(out)
    device = get(target)
    check_program_output(out)
    check_backend(device.backend)
    toolchain = toolchain or find_compiler(device)
    stages = Stages(on_stage)
    threads = threads or default_threads(device)
    maker: Maker
    if isinstance(toolchain, CudaCompiler):
        maker = CardMaker(device, toolchain, images, tuned)
    else:
        maker = CpuMaker(device, toolchain, threads, tuned, images)
    with stages.timed("plan"):
        plan = maker.plan(int_model)
    device = maker.complete(stages)
    on_target(device)
    program = _program_section(plan, int_model, device, threads, source, images, maker.told())
    manifest = {**read_manifest(int_model), "program": program}
    check_interface(manifest, *(_shapes(plan, names) for names in (plan.inputs, plan.outputs)))
    program |= maker.build(plan, stages)

    def write(path: Path) -> None:
        maker.write(path, stages)
        append_manifest(path, manifest)

    write_atomically(out, write)
    return CompileReport(out, out.stat().st_size, manifest, stages.seconds, maker.of_other_cpus)


def find_compiler(device: Target) -> Toolchain | CudaCompiler:
    """What compiles or links programs for `device`. Raises TargetError and MissingExtraError."""
    return find_cuda_compiler() if is_card(device.backend) else find_toolchain(device)


def default_threads(device: Target) -> int:
    """The cores of the device where its profile tells them, else how many threads this process uses."""
    return device.cores if device.cores and not device.is_host else usual_threads()


def _program_section(
    plan: Plan,
    model: onnx.ModelProto,
    device: Target,
    threads: int,
    source: Path | None,
    images: int,
    more: dict[str, str],
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
            **more,
        },
        "threads": threads,
        "inputs": [_describe(plan, name, images) for name in plan.inputs],
        "outputs": [_describe(plan, name, images) for name in plan.outputs],
        "sha256": {
            "integer_model": hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest(),
            "source": _file_hash(source) if source is not None else None,
        },
    }


def _describe(plan: Plan, name: str, images: int) -> dict[str, Any]:
    info = plan.tensors[name]
    return {"name": name, "shape": [images, *info.nchw[1:]], "dtype": info.dtype}


def _shapes(plan: Plan, names: list[str]) -> dict[str, list[int]]:
    """Those of one image."""
    return {name: list(plan.tensors[name].nchw) for name in names}


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
