"""Convolutions with one weight on several maps, a detection head on its pyramid → one convolution on a stack.

Rules, each with the reason it needs:

1. Convolutions of one group read the same weight with equal geometry but for the size of the map, stride 1,
   one channel group and no pool: what the kernels that take `ConvSpec.levels` ask for.
2. Their epilogues have equal stages and stores, a missing bias counting as zeros, and constant parameters
   a channel only: a stack has no second tensor to add, and no table of its own.
3. A group whose members depend on one another, directly or through other groups, is left alone.
4. Maps are ordered as in the stack that they all come from, else by size, the largest first. A convolution
   that reads exactly the maps of a stack reads the stack; maps from elsewhere are copied into one (`Stack`),
   maps read by anything else are copied out (`Unstack`).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from itertools import takewhile

import numpy as np

from aqd_deploy.compiler.plan import (
    Conv,
    Operation,
    Plan,
    Stack,
    Unstack,
)
from aqd_deploy.compiler.schedule import topological
from aqd_deploy.integer.types import TensorType
from aqd_deploy.kernels.contract.spec import AddBias, ConvSpec, Epilogue, Lookup, Pieces, Steps


def stack_levels(plan: Plan) -> Plan:
    """`plan` with every group that the rules allow merged; `Plan.slices` says where single maps went."""
    units = _merge_groups(plan.operations)
    stacker = _Stacker(plan)
    for i in topological(units):
        stacker.add(units[i])
    return stacker.finish()


def _merge_groups(operations: Sequence[Operation]) -> list[list[Operation]]:
    """The operations in file order, each group as one unit at the place of its first member: rules 1-3."""
    groups: dict[Hashable, list[Operation]] = {}
    for op in operations:
        if isinstance(op, Conv) and _may_stack(op):
            groups.setdefault(_group_key(op), []).append(op)
    units: list[list[Operation]] = [[op] for op in operations]
    for members in groups.values():
        if len(members) > 1:
            merged = _as_unit(units, members)
            if len(topological(merged)) == len(merged):
                units = merged
    return units


def _as_unit(units: list[list[Operation]], members: list[Operation]) -> list[list[Operation]]:
    inside = {id(op) for op in members}
    return [
        members if unit[0] is members[0] else unit
        for unit in units
        if id(unit[0]) not in inside or unit[0] is members[0]
    ]


def _may_stack(op: Conv) -> bool:
    plain = op.spec.strides == (1, 1) and op.spec.group == 1 and op.epilogue.pool is None
    tables = any(isinstance(stage, Lookup | Steps | Pieces) for stage in op.epilogue.stages)
    return plain and not op.added and not tables


def _group_key(op: Conv) -> Hashable:
    """Equal for convolutions that rules 1 and 2 allow in one group."""
    spec = replace(op.spec, height=0, width=0, input_range=None, winograd=())
    stages = op.epilogue.stages[1:] if _has_bias(op) else op.epilogue.stages
    return op.weight, spec, stages, op.epilogue.stores


def _has_bias(op: Conv) -> bool:
    return op.epilogue.stages[:1] == (AddBias(),)


class _Stacker:
    """Rule 4: units come in execution order, so every input is a tensor or a slice by then."""

    def __init__(self, plan: Plan) -> None:
        self.plan = replace(plan, operations=[], tensors=dict(plan.tensors), slices=dict(plan.slices))
        self.stacks: dict[tuple[str, ...], str] = {}

    def add(self, unit: list[Operation]) -> None:
        if len(unit) == 1:
            self._copy_out(unit[0].reads)
            self.plan.operations.append(unit[0])
        else:
            self._add_stacked([op for op in unit if isinstance(op, Conv)])

    def finish(self) -> Plan:
        return self.plan

    def _add_stacked(self, members: list[Conv]) -> None:
        members = self._ordered(members)
        names = [op.name for op in members]
        spec = _stacked_spec([op.spec for op in members])
        stores = zip(*(op.outputs for op in members), strict=True)
        outputs = tuple(self._new_stack(maps) for maps in stores)
        bias = any(_has_bias(op) for op in members)
        epilogue = members[0].epilogue
        if bias and not _has_bias(members[0]):
            epilogue = Epilogue((AddBias(), *epilogue.stages), epilogue.stores)
        rows = zip(*(_operands(op, bias) for op in members), strict=True)
        operands = tuple(np.concatenate(levels, axis=-1) for levels in rows)
        source = self._stack_of(tuple(op.input for op in members))
        self.plan.operations.append(
            Conv(joint_name(names), source, members[0].weight, spec, epilogue, operands, outputs)
        )

    def _ordered(self, members: list[Conv]) -> list[Conv]:
        slices = [self.plan.slices.get(op.input) for op in members]
        if all(slices) and len({s[0] for s in slices if s}) == 1:
            return sorted(members, key=lambda op: self.plan.slices[op.input][1])
        return sorted(members, key=lambda op: -op.spec.height * op.spec.width)

    def _stack_of(self, maps: tuple[str, ...]) -> str:
        """The stack of exactly `maps`, made by copying them where there is none yet."""
        if maps not in self.stacks:
            self._copy_out(maps)
            output = self._declare(maps)
            self.stacks[maps] = output
            self.plan.operations.append(Stack(output, maps, output))
        return self.stacks[maps]

    def _new_stack(self, maps: tuple[str, ...]) -> str:
        """The stack that a convolution writes instead of `maps`, which become its slices."""
        output = self._declare(maps)
        self.stacks[maps] = output
        start = 0
        for name in maps:
            self.plan.slices[name] = output, start
            start += self.plan.tensors[name].height * self.plan.tensors[name].width
        return output

    def _declare(self, maps: tuple[str, ...]) -> str:
        types = [self.plan.tensors[name] for name in maps]
        name = joint_name(maps)
        while name in self.plan.tensors:
            name += "'"
        pixels = sum(t.height * t.width for t in types)
        self.plan.tensors[name] = TensorType(pixels, 1, types[0].channels, types[0].dtype)
        return name

    def _copy_out(self, names: Sequence[str]) -> None:
        """Makes tensors of their own of those of `names` that are slices."""
        for name in names:
            if name in self.plan.slices:
                stack, start = self.plan.slices.pop(name)
                self.plan.operations.append(Unstack(name, stack, (start,), (name,)))


def _stacked_spec(specs: list[ConvSpec]) -> ConvSpec:
    """One spec for maps that differ in their size and in what is proven of them."""
    known = [spec.input_range for spec in specs]
    ranges = [interval for interval in known if interval is not None]
    joint = (min(r[0] for r in ranges), max(r[1] for r in ranges)) if len(ranges) == len(known) else None
    # Forms are exact for a weight and a range: those of a member whose range is everybody's.
    forms = next((spec.winograd for spec in specs if spec.input_range == joint), ())
    levels = tuple((spec.height, spec.width) for spec in specs)
    pixels = sum(height * width for height, width in levels)
    return replace(specs[0], height=pixels, width=1, levels=levels, input_range=joint, winograd=forms)


def _operands(op: Conv, bias: bool) -> list[np.ndarray]:
    """The parameters of `op`, zeros for the bias that others of its group have."""
    arrays = op.parameters
    if bias and not _has_bias(op):
        arrays.insert(0, np.zeros(op.spec.out_channels, np.int32))
    return arrays


def joint_name(names: Sequence[str]) -> str:
    """One name for several: "p3", "p4", "p5" → "p3-5"; numbers without order → "p{3,7,4}"."""
    prefix = _common_start(names).rstrip("0123456789")
    rests = [name[len(prefix) :] for name in names]
    suffix = _common_start([rest[::-1] for rest in rests])[::-1].lstrip("0123456789")
    middles = [rest[: len(rest) - len(suffix)] for rest in rests]
    if all(middle.isdecimal() for middle in middles):
        numbers = [int(middle) for middle in middles]
        if numbers == list(range(numbers[0], numbers[0] + len(numbers))):
            return f"{prefix}{numbers[0]}-{numbers[-1]}{suffix}"
    return f"{prefix}{{{','.join(middles)}}}{suffix}"


def _common_start(names: Sequence[str]) -> str:
    equal = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    return "".join(letters[0] for letters in equal)
