"""What the layers of a network cost at each bit width: bytes of weights, and the time on a target, by tuning
records or by the compiler's cost model.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto

from aqd_deploy.errors import RecordsError, TargetError
from aqd_deploy.kernels.backends import backend_of, check_cpu
from aqd_deploy.passes.pipeline import lower
from aqd_deploy.quantization.progress import Run
from aqd_deploy.records.lookup import Tuned
from aqd_deploy.records.task import Task
from aqd_deploy.targets import Target
from aqd_deploy.workflow.bit_widths import BitWidths, Widths

_RUNS = 30


@dataclass(frozen=True)
class Costs:
    """By weight and bits: `milliseconds` of its convolutions on the target (empty where no time was asked
    for), `megabytes` of its weights as stored, 2^20 bytes. `told` says where the milliseconds come from.
    """

    milliseconds: dict[tuple[str, int], float]
    megabytes: dict[tuple[str, int], float]
    told: str

    def total(self, table: dict[tuple[str, int], float], widths: Widths) -> float:
        """Of a whole network."""
        return sum(table[unit, bits] for unit, bits in widths.items())


@dataclass(frozen=True)
class _Convolution:
    """One of a plan: the cycles that are estimated, and the seconds that it took when it was tuned."""

    weight: str
    cycles: float
    seconds: float | None


def costs_of(
    networks: BitWidths, target: Target | None, threads: int, run: Run, tuned: Tuned | None = None
) -> Costs:
    """The costs on `target`, None where bytes are all that is asked for.

    Every width is lowered and planned as a whole, so that a layer's time is that of the kernel that it would
    get: what `tuned` measured, else cycles. Those become milliseconds on the scale of what was measured;
    without any, by the clock of the profile; where it tells none, by one measured run of the widest network
    on this machine. Raises TargetError for a card, RecordsError for records of none of these convolutions,
    ProgramError for a target without a clock that this machine isn't.
    """
    megabytes = {
        (unit.weight, bits): unit.size * bits / 8 / 2**20 for unit in networks.units for bits in networks.bits
    }
    if target is None:
        return Costs({}, megabytes, "")
    check_cpu(target.backend)
    found: dict[int, list[_Convolution]] = {}
    widest: ModelProto | None = None
    for bits in run.steps("cost model", networks.bits):
        widest = lower(networks.model(networks.everywhere(bits))).model
        found[bits] = _convolutions(widest, target, threads, tuned or Tuned())
    assert widest is not None, "there is at least one width"
    _check_all(networks, found[networks.bits[-1]])
    every = [each for of_width in found.values() for each in of_width]
    factor, told = (
        _recorded(every, target)
        if tuned is not None
        else _scale(found[networks.bits[-1]], widest, target, threads, run)
    )
    milliseconds: dict[tuple[str, int], float] = {}
    for bits, of_width in found.items():
        for each in of_width:
            taken = each.cycles * factor if each.seconds is None else each.seconds * 1e3
            milliseconds[each.weight, bits] = milliseconds.get((each.weight, bits), 0.0) + taken
    return Costs(milliseconds, megabytes, told)


def _convolutions(integer: ModelProto, target: Target, threads: int, tuned: Tuned) -> list[_Convolution]:
    """All of the plan that compiling would make."""
    from aqd_deploy.compiler.plan import Conv
    from aqd_deploy.compiler.planning import plan_model
    from aqd_deploy.compiler.relax_module import kernel_threads

    backend, plan = backend_of(target), plan_model(integer)
    found = []
    for operation in plan.operations:
        if isinstance(operation, Conv):
            workers = kernel_threads(plan, operation, backend, threads)
            task = Task(operation.spec, operation.epilogue, backend.isa, workers, backend.core)
            cycles = backend.estimate(operation.spec, threads)
            found.append(_Convolution(operation.weight, cycles, tuned.seconds(task)))
    return found


def _check_all(networks: BitWidths, found: Sequence[_Convolution]) -> None:
    """TargetError where a layer is no convolution of the plan."""
    weights = {each.weight for each in found}
    missing = [unit.name for unit in networks.units if unit.weight not in weights]
    if missing:
        raise TargetError(
            "the compiler's plan has no convolution with the weights of some layers",
            received=", ".join(missing[:3]), valid="networks whose layers are all convolutions",
        )  # fmt: skip


def _recorded(every: Sequence[_Convolution], target: Target) -> tuple[float, str]:
    """Milliseconds a cycle, as the convolutions with records took it, and where times come from."""
    measured = [(each.seconds, each.cycles) for each in every if each.seconds is not None]
    if not measured:
        raise RecordsError(
            "the records have none of the network's convolutions at any width",
            received=f"{len(every)} convolutions for {target.name}",
            valid="records of the network at the widths that are searched",
            next_command=f"aqd-deploy tune m.int.onnx --target {target.name} --records DIR",
        )
    seconds, cycles = (sum(column) for column in zip(*measured, strict=True))
    rest = len(every) - len(measured)
    told = f"records of {len(measured)} of {len(every)} convolutions at all widths"
    return seconds * 1e3 / cycles, told + (", the others by the cost model on their scale" if rest else "")


def _scale(
    found: Sequence[_Convolution], widest: ModelProto, target: Target, threads: int, run: Run
) -> tuple[float, str]:
    """Milliseconds a cycle without records, and where they come from."""
    if target.clock_ghz is not None:
        told = f"cost model of convolutions at the {target.clock_ghz:g} GHz of {target.name}"
        return 1 / (target.clock_ghz * 1e6), told
    measured = _measured(widest, target, threads, run)
    told = (
        f"cost model for {target.name}, scaled so that the widest codes everywhere take the "
        f"{measured:.3g} ms that were measured"
    )
    return measured / sum(each.cycles for each in found), told


def _measured(integer: ModelProto, target: Target, threads: int, run: Run) -> float:
    """Milliseconds of the best of some runs, of a program that is compiled for it."""
    import time

    from aqd_deploy.compiler.build import compile_model
    from aqd_deploy.runtime.program import Program

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "widest.so"
        for _ in run.steps("compiling the widest network", [path]):
            compile_model(integer, path, target=target, threads=threads)
        program = Program.load(path)
        inputs = program.random_inputs()
        best = float("inf")
        for _ in range(_RUNS):
            began = time.perf_counter()
            program.run(inputs)
            best = min(best, time.perf_counter() - began)
    return best * 1e3
