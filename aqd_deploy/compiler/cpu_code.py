"""A program for a CPU: plan, Relax, machine code, shared library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from aqd_deploy.compiler.plan import Plan
from aqd_deploy.compiler.planning import plan_model
from aqd_deploy.compiler.stages import Stages
from aqd_deploy.compiler.toolchain import Toolchain, native_toolchain
from aqd_deploy.compiler.tuning_summary import tuning_summary
from aqd_deploy.compiler.weights import weights_by_bits
from aqd_deploy.errors import ShapeError, StorageError, line_of
from aqd_deploy.files import TemporaryFolder, told_failure
from aqd_deploy.kernels.backends import backend_of
from aqd_deploy.targets import Target

if TYPE_CHECKING:
    from aqd_deploy.compiler.program_data import ProgramData
    from aqd_deploy.compiler.relax_module import BuiltModule
    from aqd_deploy.records.lookup import Tuned


class CpuMaker:
    """See `build.Maker`. Raises ShapeError for more than one image."""

    def __init__(
        self,
        device: Target,
        toolchain: Toolchain,
        threads: int,
        tuned: str | Path | Tuned | None,
        images: int,
    ) -> None:
        if images != 1:
            raise ShapeError(
                "a program for a CPU takes one image", received=images, valid="1, or the target of a card"
            )
        self.device, self.toolchain, self.threads, self.tuned = device, toolchain, threads, tuned
        self.of_other_cpus: Sequence[str] = ()

    def plan(self, model: onnx.ModelProto) -> Plan:
        return plan_model(model)

    def complete(self, stages: Stages) -> Target:
        with stages.timed("import_compiler"):
            from aqd_deploy.compiler import lower
            from aqd_deploy.records.lookup import load_tuned
        self.device = lower.complete_target(self.device)
        self.backend = backend_of(self.device)
        self.choices = load_tuned(self.tuned, self.device)
        self.of_other_cpus = self.choices.of_other_cpus
        return self.device

    def told(self) -> dict[str, str]:
        return {}

    def build(self, plan: Plan, stages: Stages) -> dict[str, Any]:
        from aqd_deploy.compiler import lower, relax_module

        with stages.timed("kernels"):
            built = relax_module.build_relax(plan, self.backend, self.threads, self.choices)
        tvm_target = lower.codegen_target(self.device)
        with stages.timed("relax"):
            lowered = lower.lower_relax(built.module, tvm_target)
        with stages.timed("codegen"):
            self.executable = lower.generate(lowered, tvm_target)
        self.data = built.data
        return _built_section(built, self.choices)

    def write(self, path: Path, stages: Stages) -> None:
        with stages.timed("link"):
            _export(self.executable, self.data, path, self.toolchain)


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
    return {**weights_by_bits(built.weights), "expanded_bytes": built.expanded_bytes}


def _built_section(built: BuiltModule, choices: Tuned) -> dict[str, Any]:
    return {
        "weights": weight_summary(built),
        "layers": [asdict(layer) for layer in built.layers],
        "memory": memory_summary(built),
        "tuning": tuning_summary(built, choices),
    }


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
