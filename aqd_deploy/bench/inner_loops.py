"""What the inner loops of a network's convolutions would take on a CPU that is not there: llvm-mca, LLVM's
simulator of pipelines, on the machine code for that CPU. An estimate: every load hits the first cache, no
branch is mispredicted, and LLVM may know a CPU only by the pipelines of one like it.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from typing import Any

from aqd_deploy import processes
from aqd_deploy.compiler.relax_module import BuiltModule
from aqd_deploy.kernels.backends import backend_of
from aqd_deploy.kernels.contract.kernel import InnerLoop
from aqd_deploy.targets import Target
from aqd_deploy.targets.cores import is_group

TOOL = "llvm-mca"
INSTALL = "apt-get install llvm"
_TURNS = 100


class ScheduleError(ValueError):
    """llvm-mca cannot simulate a loop: its text says why."""


def obstacle(target: Target) -> str:
    """Why no loop of `target` can be simulated on this machine, "" where they can."""
    if is_group(target.cpu):
        return f"the profile's cpu is {target.cpu!r}, which names no core whose pipelines are known"
    if shutil.which(TOOL) is None:
        return f"{TOOL} is not installed; try: {INSTALL}"
    return ""


def simulated_cycles(loop: InnerLoop, target: Target) -> float:
    """Cycles of one turn on the target's CPU, over a hundred turns. Raises ScheduleError."""
    command = [TOOL, f"-mtriple={target.triple}", f"-mcpu={target.cpu}", f"-iterations={_TURNS}"]
    if target.attributes:
        command.append(f"-mattr={','.join(target.attributes)}")
    text = "\n".join(loop.lines) + "\n"
    done = processes.run([*command, "-"], input=text)
    if "is not a recognized processor" in done.stderr:
        raise ScheduleError(f"this {TOOL} does not know the CPU {target.cpu}")
    cycles = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
    if done.returncode or cycles is None:
        told = next((line for line in done.stderr.splitlines() if "error" in line), "no cycles told")
        raise ScheduleError(f"{TOOL}: {told.strip()[:200]}")
    return int(cycles[1]) / _TURNS


def inner_loops(
    built: BuiltModule, target: Target, progress: Callable[[str], None] = lambda message: None
) -> tuple[list[dict[str, Any] | None], str]:
    """One entry a layer of `built` (`cycles` of a turn, its `products`, `cycles_per_product`), None for a
    layer without products or whose loop cannot be simulated; and why some or all are None, "" where all
    convolutions have one.

    Every kernel is compiled for the target's CPU; no toolchain is needed.
    """
    nothing: list[dict[str, Any] | None] = [None] * len(built.layers)
    if reason := obstacle(target):
        return nothing, reason
    backend, names = backend_of(target), called_functions(built.module)
    wanted = {name for name, layer in zip(names, built.layers, strict=True) if layer.macs}
    progress(f"compiling {len(wanted)} kernels for {target.cpu}, whose inner loops {TOOL} simulates")
    found: dict[str, dict[str, Any]] = {}
    reasons: set[str] = set()
    for name in sorted(wanted):
        loop = backend.inner_loop(assembly(built.module[name], target))
        if loop is None:
            reasons.add("kernels without a loop of vector products have no entry")
            continue
        if not loop.modelled:
            reasons.add(f"kernels of tiles have no entry: {TOOL} does not know how long they take")
            continue
        try:
            cycles = simulated_cycles(loop, target)
        except ScheduleError as error:
            reasons.add(str(error))
            continue
        found[name] = {
            "cycles": cycles,
            "products": loop.products,
            "cycles_per_product": cycles / loop.products,
        }
    return [found.get(name) for name in names], "; ".join(sorted(reasons))


def called_functions(module: Any) -> list[str]:
    """The kernels that `main` calls, in order: one a layer."""
    from tvm import relax, tirx

    bindings = (binding for block in module["main"].body.blocks for binding in block.bindings)
    calls = (binding.value for binding in bindings if isinstance(binding.value, relax.Call))
    return [
        call.op.name_hint
        for call in calls
        if hasattr(call.op, "name_hint") and isinstance(module[call.op.name_hint], tirx.PrimFunc)
    ]


def assembly(function: Any, target: Target) -> str:
    """The machine code of one kernel for `target`, as text."""
    from aqd_deploy.compiler.lower import codegen_target, compile_kernels

    return compile_kernels({"kernel": function}, codegen_target(target)).mod.inspect_source("s")
