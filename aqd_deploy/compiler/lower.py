"""Relax module → executable: the passes in one list, machine code. Memory is planned before (`memory`)."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import tvm
from tvm import relax
from tvm.relax import transform
from tvm.target import codegen

from aqd_deploy.errors import TargetError
from aqd_deploy.kernels.contract.function import PASS_CONFIG
from aqd_deploy.targets import Target
from aqd_deploy.targets.llvm_features import cpuinfo_name

# The kernels are written as vectors and registers: level 3 takes half as long again for the same speed.
_LLVM_LEVEL = 2
# What a module with static shapes, whose `main` allocates for itself, needs of TVM's default build pipeline,
# in its order.
RELAX_PASSES = (
    transform.ToNonDataflow,
    transform.RemovePurityChecking,
    transform.CallTIRRewrite,
    transform.LowerAllocTensor,
    transform.KillAfterLastUse,
    transform.LowerRuntimeBuiltin,
    transform.ComputePrimValue,
    transform.VMShapeLower,
    transform.AttachGlobalSymbol,
)


def complete_target(device: Target) -> Target:
    """`device`, checked and, where it came from a TVM target string, with the features that LLVM knows of its
    CPU.

    Raises TargetError for a CPU that LLVM does not know.
    """
    if not codegen.llvm_is_valid_cpu(device.cpu, device.triple):
        generic = tvm.target.Target({"kind": "llvm", "mtriple": device.triple})
        known = list(map(str, codegen.llvm_get_cpu_archlist(generic)))
        nearest = difflib.get_close_matches(device.cpu, known)
        raise TargetError(
            f"LLVM does not know the CPU of {device.name}",
            received=repr(device.cpu),
            valid=f"nearest {', '.join(nearest)}" if nearest else f"a CPU of LLVM's for {device.triple}",
        )
    if device.profile != "raw":
        return device
    names = codegen.llvm_get_cpu_features(tvm.target.Target(device.tvm()))
    features = {told for name in names if (told := cpuinfo_name(name, device.architecture)) is not None}
    return replace(device, features=tuple(sorted(features | set(device.features))))


def codegen_target(device: Target) -> Any:
    """The TVM target that kernels for `device` are compiled with."""
    return tvm.target.Target({**device.tvm(), "opt-level": _LLVM_LEVEL})


def compile_kernels(functions: Mapping[str, Any], target: Any) -> Any:
    """Machine code for PrimFuncs without global symbols, each under its name."""
    named = {name: function.with_attr("global_symbol", name) for name, function in functions.items()}
    with tvm.transform.PassContext(config=PASS_CONFIG):
        return tvm.compile(tvm.IRModule(named), target=target)


def lower_relax(module: Any, target: Any) -> Any:
    """Apply `RELAX_PASSES`: every tensor gets its storage, every call its registers."""
    with target:
        return tvm.transform.Sequential([make() for make in RELAX_PASSES])(module)


def generate(lowered: Any, target: Any) -> Any:
    """Machine code for every kernel, and the Relax virtual machine's program."""
    with tvm.transform.PassContext(config=PASS_CONFIG):
        return relax.build(lowered, target, relax_pipeline=None)
