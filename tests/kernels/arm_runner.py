"""Compiles kernels for ARM and runs them under qemu's user-mode emulation, in a program of `harness.c`
without TVM's runtime.
"""

from __future__ import annotations

import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from needs import need

from aqd_deploy.kernels.contract.function import PASS_CONFIG
from aqd_deploy.targets.isa import Isa

HARNESS = Path(__file__).with_name("harness.c")
# numpy's kind → DLPack's type code.
_CODES = {"i": 0, "u": 1}


@dataclass(frozen=True)
class Machine:
    """`target` is TVM's, `emulator` and `compiler` are commands; a CPU that lacks an instruction traps."""

    target: dict[str, Any]
    emulator: tuple[str, ...]
    compiler: str


_A64, _A32 = "aarch64-linux-gnu", "armv7l-linux-gnueabihf"
MACHINES = {
    Isa.I8MM: Machine(
        {"kind": "llvm", "mtriple": _A64, "mcpu": "neoverse-v1", "mattr": ["+i8mm", "-sve"]},
        ("qemu-aarch64-static", "-cpu", "max"),
        "aarch64-linux-gnu-gcc",
    ),
    Isa.DOTPROD: Machine(
        {"kind": "llvm", "mtriple": _A64, "mcpu": "cortex-a76", "mattr": ["+neon", "+dotprod"]},
        ("qemu-aarch64-static", "-cpu", "cortex-a76"),
        "aarch64-linux-gnu-gcc",
    ),
    Isa.NEON: Machine(
        {"kind": "llvm", "mtriple": _A64, "mcpu": "cortex-a72", "mattr": ["+neon"]},
        ("qemu-aarch64-static", "-cpu", "cortex-a72"),
        "aarch64-linux-gnu-gcc",
    ),
    Isa.NEON32: Machine(
        {
            "kind": "llvm",
            "mtriple": _A32,
            "mcpu": "cortex-a7",
            "mattr": ["+neon", "+vfp4"],
            "mfloat-abi": "hard",
        },
        ("qemu-arm-static", "-cpu", "cortex-a7"),
        "arm-linux-gnueabihf-gcc",
    ),
}


def need_machine(isa: Isa) -> None:
    """Skip where the emulator or the compiler is missing."""
    machine = MACHINES[isa]
    need(machine.emulator[0], machine.compiler)


def compile_arm(functions: dict[str, Any], isa: Isa) -> Any:
    """One module with every function under its name."""
    target = tvm.target.Target({**MACHINES[isa].target, "opt-level": 2})
    named = {name: func.with_attr("global_symbol", name) for name, func in functions.items()}
    with tvm.transform.PassContext(config=PASS_CONFIG):
        return tvm.compile(tvm.IRModule(named), target=target).mod


def run_arm(
    functions: dict[str, Any], calls: list[tuple[str, list[np.ndarray]]], isa: Isa, folder: Path
) -> list[list[np.ndarray]]:
    """Calls compiled functions by name with tensors, in order; returns the tensors after each call."""
    machine = MACHINES[isa]
    names = list(functions)
    kernels = folder / "kernels.o"
    compile_arm(functions, isa).write_to_file(str(kernels), "o")
    table = folder / "kernel_table.c"
    symbols = [f"__tvm_ffi_{name}" for name in names]
    declared = "".join(f"extern int {s}(void *, const void *, int, void *);\n" for s in symbols)
    table.write_text(f"{declared}void *const kernels[] = {{{', '.join(f'(void *){s}' for s in symbols)}}};\n")
    program = folder / "program"
    command = [machine.compiler, "-O1", "-static", "-o", program, HARNESS, table, kernels, "-lm"]
    subprocess.run([str(word) for word in command], check=True, capture_output=True)
    arguments, results = folder / "arguments", folder / "results"
    arguments.write_bytes(_encoded(names, calls))
    run = subprocess.run(
        [*machine.emulator, str(program), str(arguments), str(results)], capture_output=True, check=False
    )
    assert run.returncode == 0, f"exit code {run.returncode}: {run.stderr.decode()}"
    return _decoded(results.read_bytes(), calls)


def _encoded(names: list[str], calls: list[tuple[str, list[np.ndarray]]]) -> bytes:
    parts = [struct.pack("<i", len(calls))]
    for name, tensors in calls:
        parts.append(struct.pack("<ii", names.index(name), len(tensors)))
        for tensor in tensors:
            dtype = tensor.dtype
            parts.append(struct.pack("<iii", _CODES[dtype.kind], 8 * dtype.itemsize, tensor.ndim))
            parts.append(np.array(tensor.shape, "<i8").tobytes())
            parts.append(np.ascontiguousarray(tensor).tobytes())
    return b"".join(parts)


def _decoded(data: bytes, calls: list[tuple[str, list[np.ndarray]]]) -> list[list[np.ndarray]]:
    results, at = [], 0
    for _, tensors in calls:
        after = []
        for tensor in tensors:
            flat = np.frombuffer(data, tensor.dtype, tensor.size, at)
            after.append(flat.reshape(tensor.shape))
            at += tensor.nbytes
        results.append(after)
    assert at == len(data)
    return results


class Batch:
    """Calls of kernels with what each must write, compiled and run together: the compiler is what takes the
    time.
    """

    def __init__(self, isa: Isa) -> None:
        self.isa = isa
        self._functions: dict[str, Any] = {}
        self._calls: list[tuple[str, list[np.ndarray]]] = []
        self._expected: list[tuple[object, list[np.ndarray]]] = []

    def add(self, label: object, function: Any, inputs: list[np.ndarray], expected: list[np.ndarray]) -> None:
        """A call of `function`; its outputs hold other values before."""
        name = f"f{len(self._functions)}"
        self._functions[name] = function
        self._calls.append((name, [*inputs, *(np.full_like(e, 99) for e in expected)]))
        self._expected.append((label, expected))

    def check(self, folder: Path) -> None:
        """Run everything and compare every output, tolerance zero."""
        assert self._calls
        results = run_arm(self._functions, self._calls, self.isa, folder)
        for (label, expected), after in zip(self._expected, results, strict=True):
            got = after[len(after) - len(expected) :]
            for index, (e, g) in enumerate(zip(expected, got, strict=True)):
                differing = np.count_nonzero(e != g)
                assert differing == 0, f"{differing} of {e.size} of output {index}: {label} on {self.isa}"
