"""Plan → plan: every multiply-shift by the cheapest arithmetic that is exact for its constants and operands.

The operands' intervals follow from the plan itself, channel by channel: accumulators from the weights and
the intervals of the activations, everything else from the stages that it goes through. A ReLU that only
requantizations read becomes part of their clamps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import assert_never

import numpy as np

from aqd_deploy.compiler.plan import Conv, Movement, Operand, Operation, Plan, Pointwise
from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.integer.operations.pieces import pieces_image
from aqd_deploy.integer.ranges import Interval, convolution
from aqd_deploy.kernels.contract.scaling import Constants, Scaled, scale_requantize, scale_stream
from aqd_deploy.kernels.contract.spec import (
    AddBias,
    Bound,
    Epilogue,
    Lookup,
    Multiply,
    MultiplyShift,
    Pieces,
    Relu,
    Requantize,
    RequantizeMax,
    SkipAdd,
    Stage,
    Steps,
    Store,
    StoreCodes,
    StoreRequantize,
    StoreStream,
    StoreThreshold,
    StreamMultiply,
    Threshold,
)

_INT32 = np.iinfo(np.int32)


def specialise(plan: Plan) -> Plan:
    """`plan`, whose operations are in execution order, with the arithmetic of `kernels.contract.scaling`.

    Raises UnsupportedModelError for an operation that is neither a computation nor a movement.
    """
    intervals: dict[str, Interval] = {}
    operations: list[Operation] = []
    for op in plan.operations:
        match op:
            case Conv() | Pointwise():
                op, results = _specialised(op, plan, intervals)
            case Movement():
                sources = [_interval(name, plan, intervals) for name in op.reads]
                results = [op.interval(sources)] * len(op.writes)
            case _:
                raise UnsupportedModelError(
                    f"{op.name}: the compiler knows no interval of what this operation writes",
                    received=type(op).__name__, valid="computations and movements",
                )  # fmt: skip
        operations.append(op)
        intervals.update(zip(op.writes, results, strict=True))
    return replace(plan, operations=operations)


def _specialised(
    op: Conv | Pointwise, plan: Plan, intervals: dict[str, Interval]
) -> tuple[Conv | Pointwise, list[Interval]]:
    source = _interval(op.input, plan, intervals)
    levels = 1
    if isinstance(op, Conv):
        levels = len(op.spec.levels) or 1
        source = _accumulators(op, plan.weights[op.weight], source)
    others = {name: _rows(_interval(name, plan, intervals), levels) for name in op.added}
    writer = _Writer(op, _rows(source, levels), others, levels)
    epilogue, operands, results = writer.rewrite()
    return replace(op, epilogue=epilogue, operands=operands), [_channels(r, levels) for r in results]


class _Writer:
    """Goes through one epilogue with the interval of its value."""

    def __init__(
        self, op: Conv | Pointwise, value: Interval, others: dict[str, Interval], levels: int
    ) -> None:
        self.epilogue = op.epilogue
        self.given: Iterator[Operand] = iter(op.operands)
        self.value = value
        self.others = others
        self.levels = levels
        self.operands: list[Operand] = []

    def rewrite(self) -> tuple[Epilogue, tuple[Operand, ...], list[Interval]]:
        """The epilogue, its operands, and the interval of each store, by rows."""
        stages = []
        before = self.value
        for stage in self.epilogue.stages:
            before = self.value
            stages.append(self._stage(stage))
        given = [self._take(_parameters(store)) for store in self.epilogue.stores]
        results = [
            self._result(store, arrays) for store, arrays in zip(self.epilogue.stores, given, strict=True)
        ]
        stores = None
        if stages and isinstance(stages[-1], Relu):
            stores = self._stores(given, before, relu=True)
            stages = stages[:-1] if stores else stages
        stores = stores or self._stores(given, self.value, relu=False) or []
        self.operands += [array for _, arrays in stores for array in arrays]
        return (
            replace(self.epilogue, stages=tuple(stages), stores=tuple(store for store, _ in stores)),
            tuple(self.operands),
            results,
        )

    def _take(self, count: int) -> list[np.ndarray]:
        return [np.asarray(next(self.given)) for _ in range(count)]

    def _stage(self, stage: Stage) -> Stage:
        match stage:
            case AddBias():
                bias = self._take(1)[0]
                self.operands.append(bias)
                self.value = _int32(self.value.shifted(bias.astype(np.int64)))
            case Relu():
                self.value = Interval(np.maximum(self.value.lo, 0), np.maximum(self.value.hi, 0))
            case MultiplyShift():
                scaled, self.value = self._scaled(self.value)
                self.operands += scaled.arrays
                return replace(stage, scaling=scaled.scaling)
            case SkipAdd():
                return self._skip_add(stage)
            case Bound(upper):
                bound = self._keep(1)[0]
                limit = np.minimum if upper else np.maximum
                self.value = Interval(limit(self.value.lo, bound), limit(self.value.hi, bound))
            case Requantize():
                given = self._take(3)
                scaled = scale_requantize(Constants.of(*given), self.value, (stage.lo, stage.hi), self.levels)
                self.operands += scaled.arrays
                self.value = self._result(stage, given)
                return replace(stage, scaling=scaled.scaling)
            case RequantizeMax():
                return self._requantize_max(stage)
            case Threshold():
                self.value = self._result(stage, self._keep(_parameters(stage)))
            case Multiply():
                self.value = _int32(self._product(stage.zero, stage.other_zero))
            case StreamMultiply():
                found = self._product()
                b, d = (array.astype(np.int64) for array in self._keep(2))
                self.value = _int32(Interval((found.lo + b) >> d, (found.hi + b) >> d))
            case Lookup():
                self._any_of(self._keep(1)[0].view(stage.dtype))
            case Pieces():
                self._pieces(stage)
            case Steps():
                self._any_of(self._keep(3)[-1])
            case _:
                assert_never(stage)
        return stage

    def _requantize_max(self, stage: RequantizeMax) -> RequantizeMax:
        given, limits = [Constants.of(*self._take(3)) for _ in stage.scalings], (stage.lo, stage.hi)
        scaled = [scale_requantize(constants, self.value, limits, self.levels) for constants in given]
        self.operands += [array for each in scaled for array in each.arrays]
        one, two = (constants.image(self.value) for constants in given)
        larger = Interval(np.maximum(one.lo, two.lo), np.maximum(one.hi, two.hi))
        self.value = larger.clipped(*limits)
        return replace(stage, scalings=(scaled[0].scaling, scaled[1].scaling))

    def _keep(self, count: int) -> list[np.ndarray]:
        """Parameters that stay as they are."""
        arrays = self._take(count)
        self.operands += arrays
        return arrays

    def _any_of(self, table: np.ndarray) -> None:
        self.value = Interval.uniform(len(self.value.lo), int(table.min()), int(table.max()))

    def _pieces(self, stage: Pieces) -> None:
        thresholds, c, b, d = self._keep(4)
        found = pieces_image(thresholds[: stage.count - 1], c, b, d.astype(np.int64), self.value)
        rows = len(self.value.lo)
        self.value = found or Interval.uniform(rows, int(_INT32.min), int(_INT32.max))

    def _product(self, zero: int = 0, other_zero: int = 0) -> Interval:
        """Of the value and the next operand, a tensor."""
        name = next(self.given)
        self.operands.append(name)
        mine, other = self.value, self.others[str(name)]
        ends = [
            (one - zero) * (two - other_zero) for one in (mine.lo, mine.hi) for two in (other.lo, other.hi)
        ]
        return Interval(np.min(ends, axis=0), np.max(ends, axis=0))

    def _skip_add(self, stage: SkipAdd) -> SkipAdd:
        other = next(self.given)
        mine, left = self._scaled(self.value)
        theirs, right = self._scaled(self.others[str(other)])
        self.operands += [other, *mine.arrays, *theirs.arrays]
        self.value = _int32(Interval(left.lo + right.lo, left.hi + right.hi))
        return replace(stage, self_scaling=mine.scaling, other_scaling=theirs.scaling)

    def _scaled(self, operand: Interval) -> tuple[Scaled, Interval]:
        constants = Constants.of(*self._take(3))
        return scale_stream(constants, operand, self.levels), _int32(constants.image(operand))

    def _stores(
        self, given: list[list[np.ndarray]], value: Interval, *, relu: bool
    ) -> list[tuple[Store, list[np.ndarray]]] | None:
        """Each store with its parameters; None where `relu` can't be part of every one of them."""
        stores: list[tuple[Store, list[np.ndarray]]] = []
        for store, arrays in zip(self.epilogue.stores, given, strict=True):
            if isinstance(store, StoreRequantize):
                constants, limits = Constants.of(*arrays), (store.lo, store.hi)
                scaled = scale_requantize(constants, value, limits, self.levels, relu=relu)
                store, arrays = replace(store, scaling=scaled.scaling), scaled.arrays
                if relu and scaled.scaling.form == "general":
                    return None
            elif relu:
                return None
            stores.append((store, arrays))
        return stores

    def _result(self, store: Store, arrays: list[np.ndarray]) -> Interval:
        match store:
            case StoreStream() | StoreCodes():
                return self.value
            case StoreRequantize():
                return Constants.of(*arrays).image(self.value).clipped(store.lo, store.hi)
            case StoreThreshold():
                return Interval.uniform(len(self.value.lo), store.lo, store.lo + store.steps)
            case _:
                assert_never(store)


def _parameters(store: Store) -> int:
    match store:
        case StoreStream() | StoreCodes():
            return 0
        case StoreRequantize():
            return 3
        case StoreThreshold():
            return 2
        case _:
            assert_never(store)


def _accumulators(op: Conv, weight: np.ndarray, source: Interval) -> Interval:
    """The interval of a convolution's accumulators for every output channel."""
    spec = op.spec
    if any(spec.pads):
        padding = np.zeros(spec.in_channels, np.int64)
        if spec.pad_values is not None:
            padding = np.array(spec.pad_values, np.int64)
        source = Interval(np.minimum(source.lo, padding), np.maximum(source.hi, padding))
    weights = weight.astype(np.int64)
    if spec.odd:
        weights = 2 * weights + 1
    return _int32(convolution(weights, source, spec.group, zero_point=0, padded=False))


def _interval(name: str, plan: Plan, intervals: dict[str, Interval]) -> Interval:
    return intervals[name] if name in intervals else _unknown(name, plan)


def _unknown(name: str, plan: Plan) -> Interval:
    """All values of the tensor's type."""
    info = plan.tensors[name]
    limits = np.iinfo(info.dtype)
    return Interval.uniform(info.channels, int(limits.min), int(limits.max))


def _rows(interval: Interval, levels: int) -> Interval:
    """One row a level for intervals of channels."""
    return Interval(np.tile(interval.lo, levels), np.tile(interval.hi, levels))


def _channels(interval: Interval, levels: int) -> Interval:
    """What holds on every level."""
    return Interval(interval.lo.reshape(levels, -1).min(axis=0), interval.hi.reshape(levels, -1).max(axis=0))


def _int32(interval: Interval) -> Interval:
    """Itself, or all of int32 in channels that this arithmetic cannot prove to stay within it."""
    outside = (interval.lo < _INT32.min) | (interval.hi > _INT32.max)
    return Interval(np.where(outside, _INT32.min, interval.lo), np.where(outside, _INT32.max, interval.hi))
