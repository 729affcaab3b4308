"""Relax module → executable: the passes in one list, static memory planning, machine code."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax
from tvm.relax import transform

# What a module of `call_tir`s with static shapes needs of TVM's default build pipeline, in its order.
RELAX_PASSES = (
    transform.ToNonDataflow,
    transform.RemovePurityChecking,
    transform.CallTIRRewrite,
    transform.StaticPlanBlockMemory,
    transform.LowerAllocTensor,
    transform.KillAfterLastUse,
    transform.LowerRuntimeBuiltin,
    transform.ComputePrimValue,
    transform.VMShapeLower,
    transform.AttachGlobalSymbol,
)
_ALLOC_STORAGE = tvm.ir.Op.get("relax.vm.alloc_storage")


def lower_relax(module: Any, target: Any) -> Any:
    """Apply `RELAX_PASSES`: from here on every tensor has its storage."""
    with target:
        return tvm.transform.Sequential([make() for make in RELAX_PASSES])(module)


def memory_plan(lowered: Any) -> dict[str, int]:
    """Bytes and number of the storages that `main` allocates for its tensors, outputs included."""
    sizes = [
        _storage_bytes(binding.value)
        for block in lowered["main"].body.blocks
        for binding in block.bindings
        if isinstance(binding.value, relax.Call) and binding.value.op == _ALLOC_STORAGE
    ]
    return {"storages": len(sizes), "bytes": sum(sizes)}


def generate(lowered: Any, target: Any) -> Any:
    """Machine code for every kernel, and the Relax virtual machine's program."""
    # Every kernel would check shapes and types of its arguments, in twice the code and a third of the compile time.
    # All of them are fixed here, and the virtual machine checks those that come from outside.
    with tvm.transform.PassContext(config={"tirx.disable_assert": True}):
        return relax.build(lowered, target, relax_pipeline=None)


def _storage_bytes(call: Any) -> int:
    size = call.args[0]
    return int(size.values[0])
