"""How fast this machine reads memory and a core's second level of cache, measured beside the contenders.
Compiles, so it imports TVM.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from aqd_deploy.kernels.contract.caches import Core
    from aqd_deploy.kernels.contract.kernel import Stream

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


@dataclass(frozen=True)
class Reading:
    """`run` reads `read_bytes` of the memory `name`, with all its threads together."""

    name: str
    read_bytes: int
    run: Callable[[], object]


def readings(kernels: str, threads: int) -> list[Reading]:
    """A reading of memory, the first, and of the second level of an instruction set's CPU (a value of
    `targets.isa.Isa`). Raises TargetError for an unknown one.
    """
    import tvm

    from aqd_deploy import targets
    from aqd_deploy.compiler.lower import codegen_target
    from aqd_deploy.kernels.backends import backend_named
    from aqd_deploy.kernels.contract.caches import Core
    from aqd_deploy.targets.isa import isa_named

    host = targets.get("host")
    core = with_caches(Core.of(host), _CACHES)
    streams = backend_named(host.backend, isa_named(kernels), core).streams(threads)
    functions = {each.name: each.prim_func.with_attr("global_symbol", each.name) for each in streams}
    compiled = tvm.compile(tvm.IRModule(functions), codegen_target(host))
    return [
        Reading(each.name, each.read_bytes, _runner(compiled[each.name], each, threads)) for each in streams
    ]


def with_caches(core: Core, folder: Path) -> Core:
    """`core` with the second and third level of a CPU that Linux tells in `folder`: a profile of this machine
    has them only where somebody wrote them.
    """
    told: dict[str, int] = {}
    for entry in sorted(folder.glob("index[0-9]*")):
        level, size = _read(entry / "level"), _read(entry / "size")
        if level in ("2", "3") and size.removesuffix("K").isdigit():
            told[f"l{level}"] = 1024 * int(size.removesuffix("K"))
    return replace(core, l2=told.get("l2", core.l2), l3=told.get("l3", core.l3))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _runner(function: Any, stream: Stream, threads: int) -> Callable[[], object]:
    import tvm

    from aqd_deploy.runtime import lanes

    # Ones: pages that nobody wrote would all be the same one.
    data = tvm.runtime.tensor(np.ones(stream.words, np.int32))
    out = tvm.runtime.tensor(np.zeros(stream.outputs, np.int32))

    return lambda: lanes.call(threads, function, data, out)
