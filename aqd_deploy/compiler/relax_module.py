"""Plan → Relax module: `main(image, *prepared)` and `prepare()` over calls of TIR kernels.

`prepare` expands every weight's bit stream into the layout its kernel reads, and the frames that hold the
constants of epilogues; the program keeps the result for all runs. Equal kernels are one function, equal
constants one tensor, and convolutions that share a weight and a layout share one stream and one expanded
tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np
from tvm import relax

from aqd_deploy.compiler.borders import store_borders
from aqd_deploy.compiler.constants import ConstantPool
from aqd_deploy.compiler.in_place import add_in_place
from aqd_deploy.compiler.joint_outputs import join_outputs
from aqd_deploy.compiler.layer import Layer, Part, conv_layer
from aqd_deploy.compiler.memory import MemoryPlan, plan_memory
from aqd_deploy.compiler.movement import kernel_of
from aqd_deploy.compiler.plan import Computation, Conv, Operand, Operation, Plan, border
from aqd_deploy.compiler.prepare import PrepareEmitter, emit_storage
from aqd_deploy.compiler.program_data import ProgramData
from aqd_deploy.compiler.weights import EncodedWeight, encode
from aqd_deploy.errors import ShapeError
from aqd_deploy.kernels.contract.backend import Backend
from aqd_deploy.kernels.contract.choice import Choice
from aqd_deploy.kernels.contract.function import SCRATCH
from aqd_deploy.kernels.contract.kernel import Kernel, Layout
from aqd_deploy.kernels.contract.spec import Epilogue, StoreStream
from aqd_deploy.records.lookup import Tuned
from aqd_deploy.records.task import Task


@dataclass
class BuiltModule:
    """The Relax module, where its tensors lie, its layers in order, the stored weights by name, and the data
    that it must be linked with.
    """

    module: Any
    memory: MemoryPlan
    data: ProgramData = field(default_factory=ProgramData)
    layers: list[Layer] = field(default_factory=list)
    weights: dict[str, EncodedWeight] = field(default_factory=dict)
    expanded_bytes: int = 0
    stale_choices: int = 0
    scratch_bytes: int = 0


def build_relax(plan: Plan, backend: Backend, threads: int, tuned: Tuned) -> BuiltModule:
    """The Relax module of `plan` with the kernels of `backend`.

    Their choices are those of `tuned`, and the cost model's where it has none or one that is not a choice any
    more (`BuiltModule.stale_choices` counts these). Raises UnsupportedModelError for an operation without a
    kernel.
    """
    return _Builder(plan, backend, threads, tuned).build()


def kernel_threads(plan: Plan, op: Operation, backend: Backend, threads: int) -> int:
    """Threads of a kernel: fewer where waking the others takes as long as the work."""
    if isinstance(op, Conv):
        spec = op.spec
        weights = spec.out_channels * spec.in_channels // spec.group * prod(spec.kernel)
        macs = spec.out_height * spec.out_width * weights
        return backend.threads_of(threads, macs=macs)
    moved = sum(plan.tensors[name].bytes for name in (*op.reads, *op.writes))
    return backend.threads_of(threads, moved=moved)


@dataclass(frozen=True)
class _Call:
    """The kernel of an operation: `make` writes its function, once for equal keys. `weights` is the key of
    its expanded weights, None where it has none.
    """

    key: Hashable
    label: str
    make: Callable[[], Any]
    weights: Hashable = None


class _Builder:
    def __init__(self, plan: Plan, backend: Backend, threads: int, tuned: Tuned) -> None:
        self.plan = plan
        self.tuned = tuned
        self.backend = backend
        self.threads = threads
        self.block = relax.BlockBuilder()
        self.functions: dict[Hashable, Any] = {}
        self.kernels: dict[Hashable, tuple[Kernel, str]] = {}
        self.pools: dict[str, ConstantPool] = {}
        self.constants: dict[tuple[str, int, tuple[int, ...]], Any] = {}
        self.prepared: dict[Hashable, tuple[Any, EncodedWeight, Layout]] = {}
        self.stale_choices = 0
        # Only a chosen kernel says whether it can store network outputs, or write over what it reads.
        self.plan = store_borders(plan, lambda op: self._kernel(op)[0].stores_borders)
        self.plan = join_outputs(self.plan, self._splits_borders)
        self.plan = add_in_place(self.plan, lambda op: self._kernel(op)[0].writes_once)
        self.plan, self.memory = plan_memory(self.plan)
        self.result = BuiltModule(None, self.memory)
        self.values: dict[str, Any] = {}

    def build(self) -> BuiltModule:
        calls = [self._prepare_operation(op) for op in self.plan.operations]
        self.result.stale_choices = self.stale_choices
        self._emit_main(calls)
        self._emit_prepare()
        self._emit_run()
        self.result.module = self.block.finalize()
        return self.result

    def _prepare_operation(self, op: Operation) -> _Call:
        """Choose the kernel of an operation and register its weights and constants."""
        for array in op.parameters:
            self._constant(array)
        return self._prepare_conv(op) if isinstance(op, Conv) else self._prepare_movement(op)

    def _prepare_movement(self, op: Operation) -> _Call:
        kernel, tensors = kernel_of(op), self.plan.tensors
        reads, writes = (tuple(tensors[name] for name in names) for names in (op.reads, op.writes))
        layer = Layer(op.name, kernel.label, "loops", "no multiply-accumulates", writes[0].shape)
        self._add_layer(op, layer)
        key = (kernel.label, kernel.variant(op), reads, writes)
        workers = self._workers(op)
        return _Call(key, kernel.label, lambda: kernel.make(self.backend, op, reads, writes, workers))

    def _prepare_conv(self, op: Conv) -> _Call:
        kernel, tuned = self._kernel(op)
        weight = self._weight(op.weight)
        weights = (weight.identity, kernel.layout)
        shape = tuple(kernel.layout.shape)
        expanded_bytes = int(np.prod(shape))
        if weights not in self.prepared:
            variable = relax.Var(f"weight{len(self.prepared)}", relax.TensorType(shape, "int8"))
            self.prepared[weights] = (variable, weight, kernel.layout)
            self.result.expanded_bytes += expanded_bytes
        self._add_layer(op, conv_layer(op.name, op.spec, weight, kernel, expanded_bytes, tuned))
        return _Call(("conv", op.spec, op.epilogue), "conv2d", lambda: kernel.prim_func, weights)

    def _add_layer(self, op: Operation, layer: Layer) -> None:
        """`layer` with the bytes of its tensors."""
        tensors = self.plan.tensors
        inputs = sum(tensors[name].bytes for name in op.reads)
        outputs = sum(tensors[name].bytes for name in op.writes)
        results = tuple(self._parts(name) for name in op.writes if name not in op.written_over)
        layer = replace(layer, input_bytes=inputs, output_bytes=outputs, results=results)
        self.result.layers.append(layer)

    def _parts(self, name: str) -> tuple[Part, ...]:
        """The maps in a stack; what is none is its own only part."""
        tensors, slices = self.plan.tensors, self.plan.slices
        inside = {part: first for part, (stack, first) in slices.items() if stack == name} or {name: 0}
        types = {part: tensors[part] for part in inside}
        return tuple(Part(part, inside[part], kind.height, kind.width) for part, kind in types.items())

    def _kernel(self, op: Conv) -> tuple[Kernel, str]:
        """The kernel, and where its choice comes from as in `Layer.tuned`."""
        key = (op.spec, op.epilogue)
        streams = _plain_streams(op.epilogue)
        if key not in self.kernels and streams != op.epilogue:
            kernel, origin = self._kernel(replace(op, epilogue=streams))
            choice = kernel.choice
            self.kernels[key] = self._conv(op, choice), origin
        elif key not in self.kernels:
            self.kernels[key] = self._tuned_kernel(op) or (self._conv(op), "")
        return self.kernels[key]

    def _conv(self, op: Conv, choice: Choice | None = None) -> Kernel:
        return self.backend.convolution(op.spec, op.epilogue, self._workers(op), choice)

    def _workers(self, op: Operation) -> int:
        return kernel_threads(self.plan, op, self.backend, self.threads)

    def _tuned_kernel(self, op: Conv) -> tuple[Kernel, str] | None:
        task = Task(op.spec, op.epilogue, self.backend.isa, self._workers(op), self.backend.core)
        choice, origin = self.tuned.find(task)
        if choice is None:
            return None
        try:
            return self._conv(op, choice), origin
        except ShapeError:
            self.stale_choices += 1
            return None

    def _splits_borders(self, op: Conv) -> bool:
        """Whether the kernel that `op` would have could store several outputs."""
        return self._kernel(replace(op, epilogue=_plain_streams(op.epilogue)))[0].splits_borders

    def _weight(self, name: str) -> EncodedWeight:
        if name not in self.result.weights:
            self.result.weights[name] = encode(self.plan.weights[name])
        return self.result.weights[name]

    def _emit_main(self, calls: list[_Call]) -> None:
        plan, block = self.plan, self.block
        images = [
            relax.Var(name, relax.TensorType(plan.tensors[name].nchw, plan.tensors[name].dtype))
            for name in plan.inputs
        ]
        weights = [variable for variable, _, _ in self.prepared.values()]
        parameters = [*images, *weights, *self.constants.values()]
        with block.function("main", parameters, {"num_input": len(images)}):
            self.values.update(zip(map(border, plan.inputs), images, strict=True))
            arena = emit_storage(block, self.memory.arena_bytes)
            for op, call in zip(plan.operations, calls, strict=True):
                self._emit_operation(op, call, arena)
            block.emit_func_output(relax.Tuple([self.values[border(name)] for name in plan.outputs]))

    def _emit_operation(self, op: Operation, call: _Call, arena: Any) -> None:
        function = self._function(call.key, call.make, call.label)
        if isinstance(op, Computation):
            weights = [] if call.weights is None else [self.prepared[call.weights][0]]
            operands = [self._operand(operand, arena) for operand in op.operands]
            arguments = [self._value(op.input, arena), *weights, *operands]
        else:
            constants = [self._constant(array) for array in op.parameters]
            arguments = [*(self._value(name, arena) for name in op.reads), *constants]
        over = op.written_over
        results = [self._allocate(name, arena) for name in op.writes if name not in over]
        self.block.emit(relax.Call(function, [*arguments, *results]))

    def _value(self, name: str, arena: Any) -> Any:
        """The tensor `name`; new here is a stack whose maps were written in place, or what was written over
        another tensor.
        """
        return self.values[name] if name in self.values else self._allocate(name, arena)

    def _allocate(self, name: str, arena: Any) -> Any:
        """The tensor `name`: its place in the arena, or memory of its own for one that leaves the program."""
        info = self.plan.tensors[name]
        if name in self.memory.offsets:
            shape, offset = relax.ShapeExpr(info.shape), self.memory.offsets[name]
            value = relax.op.memory.alloc_tensor(arena, offset, shape, info.dtype)
        else:
            value = relax.op.builtin.alloc_tensor(relax.ShapeExpr(info.nchw), info.dtype, 0)
        self.values[name] = self.block.emit(value)
        return self.values[name]

    def _operand(self, operand: Operand, arena: Any) -> Any:
        return self._value(operand, arena) if isinstance(operand, str) else self._constant(operand)

    def _constant(self, array: np.ndarray) -> Any:
        """The parameter of `main` that holds the values of `array`, int32 or int64."""
        dtype = str(array.dtype)
        if dtype not in self.pools:
            self.pools[dtype] = ConstantPool(dtype)
        key = (dtype, self.pools[dtype].add(array), array.shape)
        if key not in self.constants:
            tensor = relax.TensorType(array.shape, dtype)
            self.constants[key] = relax.Var(f"constant{len(self.constants)}", tensor)
        return self.constants[key]

    def _function(self, key: Hashable, make: Callable[[], Any], label: str) -> Any:
        if key not in self.functions:
            function = make()
            scratch = int(function.attrs[SCRATCH]) * self.threads
            self.result.scratch_bytes = max(self.result.scratch_bytes, scratch)
            self.functions[key] = self.block.add_func(function, label)
        return self.functions[key]

    def _emit_prepare(self) -> None:
        """`prepare`: what `main` takes behind its images, in the order of its parameters."""
        with self.block.function("prepare", []):
            emitter = PrepareEmitter(
                self.block, self.backend, self.result.data, self._function, self.memory.arena_bytes
            )
            outputs = [self.plan.tensors[border(name)].bytes for name in self.plan.outputs]
            emitter.large_pages([self.memory.arena_bytes, *outputs])
            weights = emitter.weights(list(self.prepared.values()))
            constants = emitter.constants(self.pools, list(self.constants))
            self.block.emit_func_output(relax.Tuple([*weights, *constants]))

    def _emit_run(self) -> None:
        """`run`: `main` of images and of what `prepare` returned, in one tuple. TVM's RPC drops the offset of
        a tensor that goes through the client; a tuple never leaves the board.
        """
        main = self.block.get().get_global_var("main")
        images = [
            relax.Var(name, relax.TensorType(self.plan.tensors[name].nchw, self.plan.tensors[name].dtype))
            for name in self.plan.inputs
        ]
        variables = [*(variable for variable, _, _ in self.prepared.values()), *self.constants.values()]
        prepared = relax.Var("prepared", relax.TupleType([variable.ty for variable in variables]))
        with self.block.function("run", [*images, prepared]):
            items = [self.block.emit(relax.TupleGetItem(prepared, index)) for index in range(len(variables))]
            self.block.emit_func_output(self.block.emit(relax.Call(main, [*images, *items])))


def _plain_streams(epilogue: Epilogue) -> Epilogue:
    """`epilogue`, whose streams go where the tuner has them: to outputs of their own."""
    stores = (StoreStream() if isinstance(store, StoreStream) else store for store in epilogue.stores)
    return replace(epilogue, stores=tuple(stores))
