"""What runs in MetaSchedule's worker processes: build one candidate, check its integers, time it.

A candidate comes as a module without functions whose attributes name the task and the choice; the kernel is
emitted here, so that a crash of the compiler or of a kernel costs one candidate and not the tuning.
"""

from __future__ import annotations

import functools
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import tvm

from aqd_deploy.compiler.lower import compile_kernels
from aqd_deploy.compiler.toolchain import Toolchain, native_toolchain
from aqd_deploy.errors import line_of
from aqd_deploy.kernels.backends import backend_named
from aqd_deploy.kernels.contract.backend import Backend
from aqd_deploy.kernels.contract.choice import Choice
from aqd_deploy.kernels.contract.spec import ConvSpec
from aqd_deploy.kernels.reference import output_buffers
from aqd_deploy.records.task import Task
from aqd_deploy.runtime import backend
from aqd_deploy.runtime.library import load_library
from aqd_deploy.tuning.failures import CompileError, InstructionError, NotExactError
from aqd_deploy.tuning.operands import Operands

TASK, CHOICE, OPERANDS = "aqd.task", "aqd.choice", "aqd.operands"
BACKEND, LINKER = "aqd.backend", "aqd.linker"
SYMBOL = "conv2d"
# Several sets of operands are used in turn, as many as it takes to leave the second-level cache: weights and
# activations of a layer in a network come from further away too.
_ROTATED_BYTES = 6 << 20
_MOST_SETS = 12
# Seconds for a first look at a candidate, and for the comparison that accepts it.
SCREEN_SECONDS, CONFIRM_SECONDS = 0.08, 0.3
_LEAST_PAIRS = 5
# A candidate this much slower after a few runs needs no more, one this much faster is worth confirming.
_HOPELESS, _PROMISING = 1.25, 0.985


def candidate_module(
    task: Task, choice: Choice, operands: Path, backend: str, toolchain: Toolchain | None = None
) -> Any:
    """The module that stands for a candidate on its way to `build_candidate`; `backend` names whose kernel it
    is, `toolchain` (default: this machine's own) links it.
    """
    module = tvm.IRModule({}).with_attr(TASK, json.dumps(task.to_json())).with_attr(BACKEND, backend)
    module = module.with_attr(LINKER, json.dumps(asdict(toolchain or native_toolchain())))
    return module.with_attr(CHOICE, json.dumps(choice.to_json())).with_attr(OPERANDS, str(operands))


def build_candidate(module: Any, target: Any) -> str:
    """Compile a candidate; library and packed weights lie beside the task's operands.

    Returns the library's path. Raises InstructionError and CompileError, and for what is not the candidate's
    OSError, MemoryError or whatever else fails.
    """
    task = Task.from_json(json.loads(str(module.attrs[TASK])))
    choice = Choice.from_json(json.loads(str(module.attrs[CHOICE])))
    operands = Path(str(module.attrs[OPERANDS]))
    toolchain = Toolchain(**json.loads(str(module.attrs[LINKER])))
    backend = backend_named(str(module.attrs[BACKEND]), task.isa, task.core)
    with _candidates_own():
        kernel = backend.convolution(task.spec, task.epilogue, task.threads, choice)
        compiled = compile_kernels({SYMBOL: kernel.prim_func}, target)
    check_instructions(backend, task.spec, choice, compiled.mod.inspect_source("s"))
    folder = Path(tempfile.mkdtemp(prefix="candidate-", dir=operands))
    np.save(folder / "packed.npy", kernel.layout.pack(np.load(operands / "weights.npy")))
    library = folder / "kernel.so"
    compiled.export_library(str(library), fcompile=toolchain.link, workspace_dir=str(folder))
    return str(library)


@contextmanager
def _candidates_own() -> Iterator[None]:
    """What fails in the block is the candidate's failure, a CompileError, unless files or memory fail."""
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:  # whatever the compiler, or code that it made, raises
        if "bad_alloc" in str(error):
            raise MemoryError from error
        raise CompileError(line_of(error, -1)) from error


def check_instructions(backend: Backend, spec: ConvSpec, choice: Choice, assembly: str) -> None:
    """Raises InstructionError where `assembly` lacks the instructions that the kernel was written for."""
    wanted = backend.instructions(spec, choice)
    if wanted is not None and not re.search(rf"\b(?:{wanted.pattern})", assembly):
        raise InstructionError(f"its code has no {wanted.name}")


class Contender:
    """A built candidate with its operands in memory, ready to be called."""

    def __init__(self, library: Path, task: Task) -> None:
        operands = _operands(library.parent.parent)
        packed = np.load(library.parent / "packed.npy")
        inputs = [operands.data, packed, *operands.parameters]
        outputs = output_buffers(task.spec, task.epilogue)
        # Unlike tvm.runtime.load_module it lets go of a candidate's code with the candidate.
        self._function = load_library(memoryview(library.read_bytes()), library.name)[SYMBOL]
        size = sum(array.nbytes for array in (*inputs, *outputs))
        count = min(max(-(-_ROTATED_BYTES // size), 1), _MOST_SETS)
        self._sets = [[tvm.runtime.tensor(array) for array in (*inputs, *outputs)] for _ in range(count)]
        self._expected = operands.expected
        self._next = 0

    def check(self) -> None:
        """Raises NotExactError where one integer differs from the reference, CompileError where it refuses to
        run.
        """
        with _candidates_own():
            self()
        results = self._sets[self._next - 1][-len(self._expected) :]
        for index, (expected, result) in enumerate(zip(self._expected, results, strict=True)):
            differing = int(np.count_nonzero(expected != result.numpy()))
            if differing:
                raise NotExactError(f"output {index}: {differing} of {expected.size} integers differ")

    def __call__(self) -> float:
        """Seconds of one call."""
        arguments = self._sets[self._next]
        self._next = (self._next + 1) % len(self._sets)
        started = time.perf_counter()
        self._function(*arguments)
        return time.perf_counter() - started


@functools.lru_cache(maxsize=1)
def _operands(folder: Path) -> Operands:
    return Operands.load(folder)


@functools.lru_cache(maxsize=1)
def _incumbent(library: str, task: str) -> Contender:
    return Contender(Path(library), Task.from_json(json.loads(task)))


def allocate(_device: Any, _args: Any, _repeat: int) -> list[Any]:
    """MetaSchedule's `f_alloc_argument`: nothing, because operands lie in files beside the candidate."""
    return []


def evaluate(
    library: str, incumbent: str | None, task: str, _module: Any, _device: Any, _config: Any, _arguments: Any
) -> list[float]:
    """MetaSchedule's `f_run_evaluator`: check a candidate, then time it in turns with the best one so far.

    Returns the candidate's seconds and the incumbent's, call by call in turn (the candidate's alone where
    there is no incumbent). Raises NotExactError and CompileError.
    """
    definition = Task.from_json(json.loads(task))
    backend.start_workers(definition.threads)
    candidate = Contender(Path(library), definition)
    candidate.check()
    if incumbent is None:
        return _timed([candidate], SCREEN_SECONDS)
    contenders: list[Callable[[], float]] = [candidate, _incumbent(incumbent, task)]
    seconds = _timed(contenders, SCREEN_SECONDS)
    if min(seconds[::2]) < _PROMISING * min(seconds[1::2]):
        # The first look chose it for being fast, so its times are not evidence.
        seconds = _timed(contenders, CONFIRM_SECONDS)
    return seconds


def _timed(contenders: list[Callable[[], float]], limit: float) -> list[float]:
    """Seconds of calls in turn, for `limit` seconds in all but at least a few rounds."""
    for contender in contenders:
        contender()
    seconds: list[float] = []
    step = len(contenders)
    while sum(seconds) < limit or len(seconds) < _LEAST_PAIRS * step:
        seconds += [contender() for contender in contenders]
        hopeless = step == 2 and min(seconds[::2]) > _HOPELESS * min(seconds[1::2])
        if hopeless and len(seconds) >= _LEAST_PAIRS * step:
            break
    return seconds


def ready() -> bool:
    """A call that returns when a worker has imported this module."""
    return True
