"""What the layers of a network cost at each bit width: bytes of weights, and the time that the compiler's
cost model estimates for a target.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto

from aqd_deploy.errors import TargetError
from aqd_deploy.kernels.backends import backend_of, check_cpu
from aqd_deploy.passes.pipeline import lower
from aqd_deploy.quantization.progress import Run
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


def costs_of(networks: BitWidths, target: Target | None, threads: int, run: Run) -> Costs:
    """The costs on `target`, None where bytes are all that is asked for.

    Every width is lowered and planned as a whole, so that a layer's cycles are those of the kernel that it
    would get. Cycles become milliseconds by the clock of the profile; where it tells none, by one measured
    run of the widest network on this machine. Raises TargetError for a card, ProgramError for a target
    without a clock that this machine isn't.
    """
    megabytes = {
        (unit.weight, bits): unit.size * bits / 8 / 2**20 for unit in networks.units for bits in networks.bits
    }
    if target is None:
        return Costs({}, megabytes, "")
    check_cpu(target.backend)
    cycles: dict[tuple[str, int], float] = {}
    widest: ModelProto | None = None
    for bits in run.steps("cost model", networks.bits):
        widest = lower(networks.model(networks.everywhere(bits))).model
        for weight, estimate in _cycles(widest, target, threads).items():
            cycles[weight, bits] = estimate
    missing = [unit.name for unit in networks.units if (unit.weight, networks.bits[-1]) not in cycles]
    if missing:
        raise TargetError(
            "the compiler's plan has no convolution with the weights of some layers",
            received=", ".join(missing[:3]), valid="networks whose layers are all convolutions",
        )  # fmt: skip
    assert widest is not None, "there is at least one width"
    if target.clock_ghz is not None:
        factor = 1 / (target.clock_ghz * 1e6)
        told = f"cost model of convolutions at the {target.clock_ghz:g} GHz of {target.name}"
    else:
        measured = _measured(widest, target, threads, run)
        factor = measured / sum(cycles[unit.weight, networks.bits[-1]] for unit in networks.units)
        told = (
            f"cost model for {target.name}, scaled so that {networks.bits[-1]} bits everywhere take the "
            f"{measured:.3g} ms that were measured"
        )
    return Costs({key: value * factor for key, value in cycles.items()}, megabytes, told)


def _cycles(integer: ModelProto, target: Target, threads: int) -> dict[str, float]:
    """Estimated cycles of all convolutions of each weight."""
    from aqd_deploy.compiler.plan import Conv
    from aqd_deploy.compiler.planning import plan_model

    backend = backend_of(target)
    found: dict[str, float] = {}
    for operation in plan_model(integer).operations:
        if isinstance(operation, Conv):
            estimate = backend.estimate(operation.spec, threads)
            found[operation.weight] = found.get(operation.weight, 0.0) + estimate
    return found


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
