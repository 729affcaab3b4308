"""How programs run each operation of the dialect: one table, read by `compiler.fusion`.

To lower a new operation: an entry in `LOWERINGS`. One without an entry is refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from aqd_deploy.compiler.plan import (
    Concat,
    DepthToSpace,
    Gather,
    MaxPool,
    Movement,
    Operand,
    Pad,
    Rearrange,
    Resize,
    ResizeLinear,
    Slice,
    SumPool,
)
from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.integer.graph import Graph, Node
from aqd_deploy.integer.operations.movement import image_pads, resize_factors
from aqd_deploy.integer.operations.pools import pool_geometry
from aqd_deploy.integer.operations.selection import depth_sources, slice_ranges
from aqd_deploy.integer.operations.streams import Cast
from aqd_deploy.kernels.contract.cells import cell_table
from aqd_deploy.kernels.contract.spec import (
    AddBias,
    Bound,
    Lookup,
    Multiply,
    MultiplyShift,
    Pieces,
    Relu,
    Requantize,
    RequantizeMax,
    SkipAdd,
    SkipAddCodes,
    Stage,
    StoreRequantize,
    StoreThreshold,
    StreamMultiply,
    Threshold,
)


@dataclass(frozen=True)
class Convolves:
    """A convolution, with which a group starts; `odd` as in `ConvSpec`. `wide`: weights may take 9 bits."""

    odd: bool = False
    wide: bool = False


@dataclass(frozen=True)
class Stages:
    """Element-wise on a stream: `make` returns the stage of an epilogue that it is for the input named, None
    for no stage at all, and its operands. `alone`: it is worth joining a group also where the group ends
    with it.
    """

    make: Callable[[Node, str, Graph], tuple[Stage | None, list[Operand]]]
    alone: bool = True


@dataclass(frozen=True)
class Stores:
    """What an epilogue stores of a stream: `make` returns the store and its parameters. `stage`: the stage
    that does the same in the midst of an epilogue.
    """

    make: Callable[[Node, Graph], tuple[StoreRequantize | StoreThreshold, list[np.ndarray]]]
    stage: type[Requantize | Threshold]


@dataclass(frozen=True)
class Moves:
    """A kernel call of its own."""

    make: Callable[[Node, Graph], Movement]


Lowering = Convolves | Stages | Stores | Moves


def lowering_of(node: Node) -> Lowering:
    """Raises UnsupportedModelError for an operation that programs cannot run."""
    try:
        return LOWERINGS[node.entry.name]
    except KeyError:
        raise UnsupportedModelError(
            f"the compiler cannot run {node.label}", received=node.entry.name, valid=", ".join(LOWERINGS)
        ) from None


def movement_of(name: str, graph: Graph) -> Movement | None:
    """The kernel call that makes the tensor `name`; None where it is an input, or comes from an epilogue."""
    node = graph.producers.get(name)
    lowering = lowering_of(node) if node is not None else None
    return lowering.make(node, graph) if node is not None and isinstance(lowering, Moves) else None


def _add(node: Node, value: str, graph: Graph) -> tuple[Stage, list[Operand]]:
    if graph.has_operand(node, "bias"):
        return AddBias(), [_per_channel(node, graph, "bias", np.int32)]
    other = node.slots[1] if node.slots[0] == value else node.slots[0]
    channels = graph.types[value].channels
    return SkipAdd(1, True, True), [other, *identity(channels), *identity(channels)]


def identity(channels: int) -> list[np.ndarray]:
    """c, B and d of a multiply-shift that changes nothing."""
    return [np.ones(channels, np.int32), np.zeros(channels, np.int64), np.zeros(channels, np.int32)]


def _max(node: Node, value: str, graph: Graph) -> tuple[Stage, list[Operand]]:
    floor = graph.operand(node, "floor")
    return (Bound(upper=False), [_bound(node, floor, graph)]) if floor.any() else (Relu(), [])


def _min(node: Node, value: str, graph: Graph) -> tuple[Stage, list[Operand]]:
    return Bound(upper=True), [_bound(node, graph.operand(node, "top"), graph)]


def _bound(node: Node, bound: np.ndarray, graph: Graph) -> np.ndarray:
    """int32 [C]."""
    channels = graph.types[node.output].channels
    return np.ascontiguousarray(np.broadcast_to(bound.reshape(-1), channels))


def _multiply_shift(node: Node, value: str, graph: Graph) -> tuple[Stage, list[Operand]]:
    return MultiplyShift(), [*_scale(node, graph)]


def _skip_add(node: Node, value: str, graph: Graph) -> tuple[Stage, list[Operand]]:
    """Upsampling of the other side, by the same factor both ways, becomes the stage's own, and so does the
    cast of codes before or after it.
    """
    mine, theirs, other = _scale(node, graph, "a"), _scale(node, graph, "b"), node.slots[1]
    if node.slots[0] != value:
        mine, theirs, other = theirs, mine, node.slots[0]
    other = codes_behind(other, graph)
    upsample = 1
    source = movement_of(other, graph)
    if isinstance(source, Resize) and source.factors[0] == source.factors[1]:
        other, upsample = codes_behind(source.input, graph), source.factors[0]
    operands: list[Operand] = [other, *mine, *theirs]
    stage = SkipAdd(upsample, _is_identity(mine), _is_identity(theirs))
    dtype = graph.types[other].dtype
    return (stage if dtype == "int32" else SkipAddCodes(**vars(stage), dtype=dtype)), operands


def codes_behind(name: str, graph: Graph) -> str:
    """The codes that `name` is the Cast of; itself where it is none."""
    node = graph.producers.get(name)
    return node.slots[0] if node is not None and isinstance(node.entry, Cast) else name


def _multiply(node: Node, value: str, graph: Graph) -> tuple[Stage, list[Operand]]:
    zeros = [int(graph.operand(node, f"{name}_zero_point")) for name in ("a", "b")]
    if node.slots[0] != value:
        zeros = zeros[::-1]
    other, one_pixel = _factor(node, value, graph)
    return Multiply(zeros[0], zeros[1], graph.types[other].dtype, one_pixel), [other]


def _stream_multiply(node: Node, value: str, graph: Graph) -> tuple[Stage, list[Operand]]:
    other, one_pixel = _factor(node, value, graph)
    b, d = (_per_channel(node, graph, name, kind) for name, kind in (("B", np.int64), ("d", np.int32)))
    return StreamMultiply(one_pixel), [other, b, d]


def _factor(node: Node, value: str, graph: Graph) -> tuple[str, bool]:
    """The other factor, and whether it is one pixel for all."""
    other = node.slots[1] if node.slots[0] == value else node.slots[0]
    return other, graph.types[other].shape != graph.types[node.output].shape


def _lookup(node: Node, value: str, graph: Graph) -> tuple[Stage, list[Operand]]:
    table = graph.operand(node, "table")
    return Lookup(str(table.dtype)), [np.frombuffer(table.tobytes(), np.int32)]


def _steps(node: Node, value: str, graph: Graph) -> tuple[Stage, list[Operand]]:
    stage, arrays = cell_table(graph.operand(node, "T"), graph.operand(node, "codes"))
    return stage, [*arrays]


def _pieces(node: Node, value: str, graph: Graph) -> tuple[Stage, list[Operand]]:
    thresholds, *constants = (graph.operand(node, name) for name in ("T", "c", "B", "d"))
    stage = Pieces(len(constants[0]))
    padded = np.full((1 << stage.bits) - 1, np.iinfo(np.int32).max, np.int32)
    padded[: len(thresholds)] = thresholds
    c, b, d = (
        np.ascontiguousarray(values, kind)
        for values, kind in zip(constants, (np.int32, np.int64, np.int32), strict=True)
    )
    return stage, [padded, c, b, d]


def _cast(node: Node, value: str, graph: Graph) -> tuple[None, list[Operand]]:
    """Every epilogue widens what it reads."""
    return None, []


def _requantize(node: Node, graph: Graph) -> tuple[StoreRequantize, list[np.ndarray]]:
    lo, hi = node.attributes["lo"], node.attributes["hi"]
    return StoreRequantize(lo, hi, graph.types[node.output].dtype), _scale(node, graph)


def _requantize_max(node: Node, value: str, graph: Graph) -> tuple[Stage, list[Operand]]:
    stage = RequantizeMax(node.attributes["lo"], node.attributes["hi"])
    return stage, [*_scale(node, graph, "a"), *_scale(node, graph, "b")]


def _threshold(node: Node, graph: Graph) -> tuple[StoreThreshold, list[np.ndarray]]:
    value, thresholds = graph.types[node.output], graph.operand(node, "T")
    table = np.ascontiguousarray(thresholds.reshape(len(thresholds), value.channels))
    store = StoreThreshold(node.attributes["lo"], len(table), value.dtype)
    return store, [_per_channel(node, graph, "sign", np.int32), table]


def _max_pool(node: Node, graph: Graph) -> MaxPool:
    return MaxPool(node.name, node.slots[0], node.output, *pool_geometry(node))


def _resize(node: Node, graph: Graph) -> Resize:
    return Resize(node.name, node.slots[0], node.output, resize_factors(node, graph))


def _concat(node: Node, graph: Graph) -> Concat:
    return Concat(node.name, node.slots, node.output)


def _slice(node: Node, graph: Graph) -> Slice:
    channels, rows, columns = ((r.start, r.step, len(r)) for r in slice_ranges(node, graph))
    return Slice(node.name, node.slots[0], node.output, rows, columns, channels)


def _gather(node: Node, graph: Graph) -> Gather:
    indices = graph.operand(node, "indices").astype(np.int32)
    return Gather(node.name, node.slots[0], node.output, indices)


def _depth_to_space(node: Node, graph: Graph) -> DepthToSpace:
    sources = depth_sources(node, graph)
    step = int(sources[0, 1] - sources[0, 0]) if sources.shape[1] > 1 else 1
    first = tuple(sources[:, 0].tolist())
    return DepthToSpace(node.name, node.slots[0], node.output, node.attributes["blocksize"], first, step)


def _rearrange(node: Node, graph: Graph) -> Rearrange:
    """Maps lie channels-last in programs, so both sides of the indices are counted anew."""
    x, y = graph.types[node.slots[0]], graph.types[node.output]
    places = np.arange(math.prod(x.shape), dtype=np.int32).reshape(x.shape).transpose(2, 0, 1).reshape(-1)
    indices = places[graph.operand(node, "indices")].transpose(1, 2, 0)
    flat = np.ascontiguousarray(indices).reshape(-1)
    return Rearrange(node.name, node.slots[0], node.output, flat, y.channels)


def _sum_pool(node: Node, graph: Graph) -> SumPool:
    pad_value = node.attributes.get("pad_value", 0)
    return SumPool(node.name, node.slots[0], node.output, *pool_geometry(node), pad_value)


def _resize_linear(node: Node, graph: Graph) -> ResizeLinear:
    factors, half_pixel = node.attributes["factors"], node.attributes["half_pixel"]
    return ResizeLinear(node.name, node.slots[0], node.output, factors, half_pixel)


def _pad_image(node: Node, graph: Graph) -> Pad:
    values = tuple(graph.operand(node, "values").reshape(-1).tolist())
    return Pad(node.name, node.slots[0], node.output, image_pads(node), values)


LOWERINGS: dict[str, Lowering] = {
    "ConvInteger": Convolves(),
    "ConvOdd": Convolves(odd=True),
    "ConvOffset": Convolves(wide=True),
    "Add": Stages(_add),
    "Max": Stages(_max),
    "Min": Stages(_min),
    "MultiplyShift": Stages(_multiply_shift),
    "SkipAdd": Stages(_skip_add),
    "Cast": Stages(_cast, alone=False),
    "Multiply": Stages(_multiply),
    "StreamMultiply": Stages(_stream_multiply),
    "Lookup": Stages(_lookup),
    "Steps": Stages(_steps),
    "Pieces": Stages(_pieces),
    "Requantize": Stores(_requantize, Requantize),
    "RequantizeMax": Stages(_requantize_max),
    "Threshold": Stores(_threshold, Threshold),
    "MaxPool": Moves(_max_pool),
    "MaxPool_k{K}s{S}p{P}": Moves(_max_pool),
    "SumPool": Moves(_sum_pool),
    "StreamSumPool": Moves(_sum_pool),
    "Resize": Moves(_resize),
    "ResizeLinear": Moves(_resize_linear),
    "Concat": Moves(_concat),
    "Slice": Moves(_slice),
    "Gather": Moves(_gather),
    "DepthToSpace_CRD": Moves(_depth_to_space),
    "DepthToSpace_DCR": Moves(_depth_to_space),
    "Rearrange": Moves(_rearrange),
    "PadImage": Moves(_pad_image),
    "PadSignedImage": Moves(_pad_image),
}
"""By the name of the entry. What only renames does not become a node of a graph."""


def _scale(node: Node, graph: Graph, suffix: str = "") -> list[np.ndarray]:
    """c int32, B int64, d int32, each [C], of a multiply-shift."""
    dtypes = {"c": np.int32, "B": np.int64, "d": np.int32}
    return [_per_channel(node, graph, f"{name}{suffix}", dtype) for name, dtype in dtypes.items()]


def _is_identity(parameters: list[np.ndarray]) -> bool:
    c, b, d = parameters
    return bool(np.all(c == 1) and not b.any() and not d.any())


def _per_channel(node: Node, graph: Graph, name: str, dtype: type) -> np.ndarray:
    """The operand [1, C, 1, 1] as [C] of `dtype`, which the reader has shown to hold it."""
    return np.ascontiguousarray(graph.operand(node, name).reshape(-1), dtype)
