"""How programs run each operation of the dialect: one table, read by `compiler.fusion`.

To lower a new operation: an entry in `LOWERINGS`. One without an entry is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from aqd_deploy.compiler.plan import Concat, MaxPool, Movement, Operand, Pad, Resize
from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.integer.graph import Graph, Node
from aqd_deploy.integer.operations.movement import image_pads, resize_factors
from aqd_deploy.integer.operations.pools import pool_geometry
from aqd_deploy.kernels.contract.spec import (
    AddBias,
    MultiplyShift,
    Relu,
    SkipAdd,
    Stage,
    Store,
    StoreRequantize,
    StoreThreshold,
)


@dataclass(frozen=True)
class Convolves:
    """A convolution, with which a group starts; `odd` as in `ConvSpec`."""

    odd: bool


@dataclass(frozen=True)
class Stages:
    """Element-wise on a stream: `make` returns the stage of an epilogue that it is for the input named, None
    for no stage at all, and its operands.
    """

    make: Callable[[Node, str, Graph], tuple[Stage | None, list[Operand]]]


@dataclass(frozen=True)
class Stores:
    """What an epilogue stores of a stream: `make` returns the store and its parameters."""

    make: Callable[[Node, Graph], tuple[Store, list[np.ndarray]]]


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
    identity: list[Operand] = [
        np.ones(channels, np.int32),
        np.zeros(channels, np.int64),
        np.zeros(channels, np.int32),
    ]
    return SkipAdd(1, True, True), [other, *identity, *identity]


def _max(node: Node, value: str, graph: Graph) -> tuple[Stage, list[Operand]]:
    return Relu(), []


def _multiply_shift(node: Node, value: str, graph: Graph) -> tuple[Stage, list[Operand]]:
    return MultiplyShift(), [*_scale(node, graph)]


def _skip_add(node: Node, value: str, graph: Graph) -> tuple[Stage, list[Operand]]:
    """Upsampling of the other side, by the same factor both ways, becomes the stage's own."""
    mine, theirs, other = _scale(node, graph, "a"), _scale(node, graph, "b"), node.slots[1]
    if node.slots[0] != value:
        mine, theirs, other = theirs, mine, node.slots[0]
    upsample = 1
    source = movement_of(other, graph)
    if isinstance(source, Resize) and source.factors[0] == source.factors[1]:
        other, upsample = source.input, source.factors[0]
    return SkipAdd(upsample, _is_identity(mine), _is_identity(theirs)), [other, *mine, *theirs]


def _cast(node: Node, value: str, graph: Graph) -> tuple[None, list[Operand]]:
    """Every epilogue widens what it reads."""
    return None, []


def _requantize(node: Node, graph: Graph) -> tuple[Store, list[np.ndarray]]:
    lo, hi = node.attributes["lo"], node.attributes["hi"]
    return StoreRequantize(lo, hi, graph.types[node.output].dtype), _scale(node, graph)


def _threshold(node: Node, graph: Graph) -> tuple[Store, list[np.ndarray]]:
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


def _pad_image(node: Node, graph: Graph) -> Pad:
    values = tuple(graph.operand(node, "values").reshape(-1).tolist())
    return Pad(node.name, node.slots[0], node.output, image_pads(node), values)


LOWERINGS: dict[str, Lowering] = {
    "ConvInteger": Convolves(odd=False),
    "ConvOdd": Convolves(odd=True),
    "Add": Stages(_add),
    "Max": Stages(_max),
    "MultiplyShift": Stages(_multiply_shift),
    "SkipAdd": Stages(_skip_add),
    "Cast": Stages(_cast),
    "Requantize": Stores(_requantize),
    "Threshold": Stores(_threshold),
    "MaxPool": Moves(_max_pool),
    "MaxPool_k{K}s{S}p{P}": Moves(_max_pool),
    "Resize": Moves(_resize),
    "Concat": Moves(_concat),
    "PadImage": Moves(_pad_image),
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
