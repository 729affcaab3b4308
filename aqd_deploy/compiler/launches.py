"""Plan → launches: what a program for a card does, in order, where its tensors lie, and what it stores.

`prepare` expands weights once, `run` is one run. Tensors lie as `kernels.contract.launches` says; the memory
planner sees them with all images and whole pitches, so that stacks and views work as on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace

import numpy as np

from aqd_deploy.compiler.borders import store_borders
from aqd_deploy.compiler.in_place import add_in_place
from aqd_deploy.compiler.layer import Layer, conv_layer
from aqd_deploy.compiler.memory import MemoryPlan, plan_memory
from aqd_deploy.compiler.padding import border_sums
from aqd_deploy.compiler.patches import Patches
from aqd_deploy.compiler.plan import (
    Concat,
    Conv,
    DepthToSpace,
    Gather,
    MaxPool,
    Operation,
    Pad,
    Plan,
    Pointwise,
    Rearrange,
    Resize,
    ResizeLinear,
    Slice,
    Stack,
    SumPool,
    ToChannelsFirst,
    ToChannelsLast,
    Unstack,
    border,
)
from aqd_deploy.compiler.program_data import ProgramData
from aqd_deploy.compiler.weights import EncodedWeight, encode
from aqd_deploy.errors import ShapeError, UnsupportedModelError
from aqd_deploy.integer.types import MAX_ELEMENTS, TensorType
from aqd_deploy.kernels.contract.choice import Choice
from aqd_deploy.kernels.contract.launches import (
    Address,
    Buffer,
    CardBackend,
    CardConv,
    CardLayout,
    Launch,
    Region,
    StoredCodes,
    whole,
)
from aqd_deploy.records.task import CardTask

_ALIGNMENT = 64


@dataclass
class BuiltLaunches:
    """Launches with the index of their layer, layers, weights by name, and bytes of every region. `borders`:
    where inputs and outputs begin, by name. `stale_choices`: how many were found that no kernel has.
    """

    images: int
    memory: MemoryPlan
    data: ProgramData = field(default_factory=ProgramData)
    prepare: list[Launch] = field(default_factory=list)
    run: list[tuple[int, Launch]] = field(default_factory=list)
    layers: list[Layer] = field(default_factory=list)
    weights: dict[str, EncodedWeight] = field(default_factory=dict)
    borders: dict[str, Address] = field(default_factory=dict)
    stale_choices: int = 0
    kept_bytes: int = 0
    border_bytes: int = 0
    sums_bytes: int = 0

    def region_bytes(self) -> dict[Region, int]:
        """The size of every region, in the order in which they lie."""
        return {
            Region.STORED: self.data.bytes,
            Region.ARENA: _aligned(self.memory.arena_bytes),
            Region.KEPT: self.kept_bytes,
            Region.BORDER: self.border_bytes,
            Region.SUMS: self.sums_bytes,
        }

    # What `kernels.contract.launches.Room` asks.

    def store(self, array: np.ndarray) -> Address:
        return Address(Region.STORED, self.data.add(array))

    def sums(self, size: int) -> Address:
        self.sums_bytes = max(self.sums_bytes, _aligned(size))
        return Address(Region.SUMS)

    def keep(self, size: int) -> Address:
        """`size` bytes that `prepare` writes."""
        self.kept_bytes += _aligned(size)
        return Address(Region.KEPT, self.kept_bytes - _aligned(size))


Find = Callable[[CardTask, Callable[[], list[Choice]]], tuple[Choice | None, str]]
"""The choice for a task and where it comes from (`Layer.tuned`), or None and ""; the second argument lists
those that it has.
"""


def build_launches(plan: Plan, backend: CardBackend, images: int, find: Find | None = None) -> BuiltLaunches:
    """The launches of `plan` with the kernels of `backend`, for `images` images at once; of convolutions
    those that `find` tells, asked layer by layer, else the ones of the least estimate.

    Raises UnsupportedModelError for an operation without a kernel, ShapeError for a convolution without
    output, and for a tensor with more elements than kernels count.
    """
    return _Builder(plan, backend, images, find or (lambda *_: (None, ""))).build()


class _Builder:
    def __init__(self, plan: Plan, backend: CardBackend, images: int, find: Find) -> None:
        self.backend, self.images, self.find = backend, images, find
        for op in plan.operations:
            _check(op)
        plan = store_borders(plan, lambda _: True)
        plan = add_in_place(plan, lambda _: True)
        self.types = plan.tensors
        for name, each in plan.tensors.items():
            _check_size(name, each, images)
        physical = {name: _physical(each, images) for name, each in plan.tensors.items()}
        self.plan, memory = plan_memory(replace(plan, tensors=physical))
        self.built = BuiltLaunches(images, memory)
        self.expanded: dict[Hashable, Address] = {}

    def build(self) -> BuiltLaunches:
        for name in map(border, (*self.plan.inputs, *self.plan.outputs)):
            size = _aligned(self._border_bytes(name))
            self.built.borders[name] = Address(Region.BORDER, self.built.border_bytes)
            self.built.border_bytes += size
        for index, op in enumerate(self.plan.operations):
            launches = self._conv(op) if isinstance(op, Conv) else self._movement(op)
            self.built.run += [(index, launch) for launch in launches]
        return self.built

    def _border_bytes(self, name: str) -> int:
        return self.images * self.types[name].bytes

    def _buffer(self, name: str) -> Buffer:
        info = self.types[name]
        if name in self.built.borders:
            address = self.built.borders[name]
        else:
            address = Address(Region.ARENA, self.built.memory.offsets[name])
        return Buffer(address, self.images, *info.shape, info.dtype)

    def _conv(self, op: Conv) -> list[Launch]:
        kernel, origin = self._kernel(op)
        if op.weight not in self.built.weights:
            self.built.weights[op.weight] = encode(self.plan.weights[op.weight])
        weight = self.built.weights[op.weight]
        self._add_layer(op, conv_layer(op.name, op.spec, weight, kernel, kernel.layout.bytes, origin))
        others, outputs = ([self._buffer(name) for name in names] for names in (op.added, op.outputs))
        weights = self._weights(weight, kernel.layout)
        return kernel.launches(self._buffer(op.input), weights, others, outputs, self.built)

    def _kernel(self, op: Conv) -> tuple[CardConv, str]:
        """The kernel of a convolution, and where its choice comes from."""
        border = border_sums(op.spec, self.plan.weights[op.weight])
        wanted = (op.spec, op.epilogue, op.parameters, self.images, border)
        task = CardTask(op.spec, op.epilogue, self.backend.card, self.images)
        choice, origin = self.find(task, lambda: self.backend.choices(*wanted))
        try:
            return self.backend.convolution(*wanted, choice), origin
        except ShapeError:
            if choice is None:
                raise
            self.built.stale_choices += 1
            return self.backend.convolution(*wanted), ""

    def _weights(self, weight: EncodedWeight, layout: CardLayout) -> Address:
        """The weights in `layout`: equal ones are there once."""
        key = (weight.identity, layout)
        if key not in self.expanded:
            out = self.built.keep(layout.bytes)
            if weight.rice is None:
                codes, bits = self.built.store(weight.stream), weight.bits
            else:
                codes, bits = self.built.keep(weight.rice.count), 8
                self.built.prepare.append(self.backend.expand_rice_codes(weight.rice, codes, self.built))
            stored = StoredCodes(codes, bits, weight.offset, weight.step, weight.shape)
            self.built.prepare.append(layout.unpack(stored, out))
            self.expanded[key] = out
        return self.expanded[key]

    def _movement(self, op: Operation) -> list[Launch]:
        label, make = _MOVEMENTS[type(op)]
        shape = self.types[op.writes[0]].shape
        self._add_layer(op, Layer(op.name, label, label, "no multiply-accumulates", shape))
        return make(self, op)

    def _add_layer(self, op: Operation, layer: Layer) -> None:
        """`layer` with the bytes of its tensors, all images together."""
        inputs, outputs = (
            sum(self.types[name].bytes * self.images for name in names) for names in (op.reads, op.writes)
        )
        self.built.layers.append(replace(layer, input_bytes=inputs, output_bytes=outputs))

    def pointwise(self, op: Pointwise) -> list[Launch]:
        others, outputs = ([self._buffer(name) for name in names] for names in (op.added, op.outputs))
        source = self._buffer(op.input)
        return [self.backend.pointwise(source, op.epilogue, op.parameters, others, outputs, self.built)]

    def max_pool(self, op: MaxPool) -> list[Launch]:
        source, out = self._buffer(op.input), self._buffer(op.output)
        return [self.backend.max_pool(source, out, op.kernel, op.strides, op.pads)]

    def resize(self, op: Resize) -> list[Launch]:
        return [self.backend.upsample(self._buffer(op.input), self._buffer(op.output), op.factors)]

    def pad(self, op: Pad) -> list[Launch]:
        source, out = self._buffer(op.input), self._buffer(op.output)
        return [self.backend.pad(source, out, op.pads, op.values, self.built)]

    def sum_pool(self, op: SumPool) -> list[Launch]:
        source, out = self._buffer(op.input), self._buffer(op.output)
        window = op.kernel, op.strides, op.pads
        return [self.backend.sum_pool(source, out, *window, op.pad_value, self.built)]

    def resize_linear(self, op: ResizeLinear) -> list[Launch]:
        source, out = self._buffer(op.input), self._buffer(op.output)
        return [self.backend.resize_linear(source, out, op.factors, op.half_pixel)]

    def slice(self, op: Slice) -> list[Launch]:
        (top, down, _), (left, across, _), (first, step, count) = op.rows, op.columns, op.channels
        return self._pick(op, first + step * np.arange(count), (top, left), (down, across))

    def gather(self, op: Gather) -> list[Launch]:
        return self._pick(op, op.indices)

    def depth_to_space(self, op: DepthToSpace) -> list[Launch]:
        count = self.types[op.output].channels
        return self._pick(op, np.array(op.first)[:, None] + op.step * np.arange(count))

    def _pick(
        self,
        op: Slice | Gather | DepthToSpace,
        channels: np.ndarray,
        first: tuple[int, int] = (0, 0),
        steps: tuple[int, int] = (1, 1),
    ) -> list[Launch]:
        source, out = self._buffer(op.input), self._buffer(op.output)
        named = channels.reshape(-1, out.channels)
        return [self.backend.pick(source, out, first, steps, named, self.built)]

    def rearrange(self, op: Rearrange) -> list[Launch]:
        source, out = self._buffer(op.input), self._buffer(op.output)
        return [self.backend.rearrange(source, out, op.indices, self.built)]

    def concat(self, op: Concat) -> list[Launch]:
        return self.backend.concat([self._buffer(name) for name in op.inputs], self._buffer(op.output))

    def stack(self, op: Stack) -> list[Launch]:
        made, out, start = [], self._buffer(op.output), 0
        for part in map(self._buffer, op.inputs):
            made.append(self._copied(part.address, self._at(out, start), part))
            start += part.height * part.width
        return made

    def unstack(self, op: Unstack) -> list[Launch]:
        source = self._buffer(op.input)
        pairs = zip(map(self._buffer, op.outputs), op.starts, strict=True)
        return [self._copied(self._at(source, start), part.address, part) for part, start in pairs]

    def channels_last(self, op: ToChannelsLast) -> list[Launch]:
        return [self.backend.to_channels_last(self.built.borders[op.input], self._buffer(op.output))]

    def patches(self, op: Patches) -> list[Launch]:
        image, out = self._buffer(op.input), self._buffer(op.output)
        pads, steps = op.pads, (op.width, op.stride, op.dilation)
        return [self.backend.patches(image, out, steps, pads, op.values, self.built)]

    def channels_first(self, op: ToChannelsFirst) -> list[Launch]:
        source = self._buffer(op.input)
        pairs = zip(map(self._buffer, op.outputs), op.starts, strict=True)
        return [self.backend.to_channels_first(self._at(source, start), out) for out, start in pairs]

    def _at(self, stack: Buffer, start: int) -> Address:
        """The map of a stack that begins at pixel `start` of one image."""
        return stack.pixel(start * self.images)

    def _copied(self, source: Address, out: Address, part: Buffer) -> Launch:
        size = self.images * part.height * part.width * part.pitch * part.itemsize
        return self.backend.copy(source, out, size)


_MOVEMENTS: dict[type[Operation], tuple[str, Callable[..., list[Launch]]]] = {
    Pointwise: ("pointwise", _Builder.pointwise),
    MaxPool: ("maxpool", _Builder.max_pool),
    Resize: ("resize", _Builder.resize),
    Pad: ("pad", _Builder.pad),
    Concat: ("concat", _Builder.concat),
    SumPool: ("sumpool", _Builder.sum_pool),
    ResizeLinear: ("resize_linear", _Builder.resize_linear),
    Slice: ("slice", _Builder.slice),
    Gather: ("gather", _Builder.gather),
    DepthToSpace: ("depth_to_space", _Builder.depth_to_space),
    Rearrange: ("rearrange", _Builder.rearrange),
    Stack: ("stack", _Builder.stack),
    Unstack: ("unstack", _Builder.unstack),
    Patches: ("patches", _Builder.patches),
    ToChannelsLast: ("to_nhwc", _Builder.channels_last),
    ToChannelsFirst: ("to_nchw", _Builder.channels_first),
}


def _check(op: Operation) -> None:
    """Raise UnsupportedModelError where an operation has no kernel."""
    if not isinstance(op, Conv) and type(op) not in _MOVEMENTS:
        raise UnsupportedModelError(
            f"{op.name}: there is no kernel for this operation on a card",
            received=type(op).__name__,
            valid=", ".join(each.__name__ for each in _MOVEMENTS),
        )


def _check_size(name: str, info: TensorType, images: int) -> None:
    """Raise ShapeError where a kernel could not count the elements of a tensor."""
    elements = images * info.height * info.width * whole(info.channels)
    if elements > MAX_ELEMENTS:
        raise ShapeError(
            f"{name} has too many elements for a card's kernels",
            received=f"{elements} with {images} images",
            valid=f"at most {MAX_ELEMENTS}: fewer images",
        )


def _physical(info: TensorType, images: int) -> TensorType:
    """`info` with all images and the whole pitch as its channels: its bytes, and those of its maps."""
    return replace(info, channels=images * whole(info.channels))


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
