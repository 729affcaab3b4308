"""Plan → plan: network outputs of few channels that are computed from one tensor, a detector's boxes and its
centre-ness, are one convolution: vectors and tiles hold more channels than each of them has.

Rules, each with the reason it needs:

1. The convolutions read one tensor with equal geometry and write network outputs only (`StoreBorder`): so all
   of them can be computed where the first one is.
2. All that comes before is a bias and a ReLU, which the joint one can have for some channels only: a bias of
   zero, and a bound that no int32 is below.
3. Together they fill one vector of channels at most: none is computed in addition.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace

import numpy as np

from aqd_deploy.compiler.plan import Conv, Operation, Plan
from aqd_deploy.compiler.ranges import weight_range, weight_step
from aqd_deploy.kernels.contract.spec import AddBias, Bound, Epilogue, Relu, Stage, StoreBorder

# Channels of a vector.
LANES = 16
_LOWEST = np.iinfo(np.int32).min


def join_outputs(plan: Plan, can_join: Callable[[Conv], bool]) -> Plan:
    """`plan`, behind `borders.store_borders`, with the convolutions joined that the rules allow, where
    `can_join` says of the joint one that its kernel knows how.
    """
    groups: dict[Hashable, list[Conv]] = {}
    for op in plan.operations:
        if isinstance(op, Conv) and _may_join(op):
            groups.setdefault(_key(op), []).append(op)
    operations: list[Operation] = list(plan.operations)
    weights = dict(plan.weights)
    for members in groups.values():
        if len(members) > 1 and sum(op.spec.out_channels for op in members) <= LANES:
            weight = np.concatenate([weights[op.weight] for op in members])
            joint = _joint(members, weight)
            if can_join(joint):
                weights[joint.weight] = weight
                operations[operations.index(members[0])] = joint
                operations = [op for op in operations if op not in members]
    used = {op.weight for op in operations if isinstance(op, Conv)}
    weights = {name: value for name, value in weights.items() if name in used}
    return replace(plan, operations=operations, weights=weights)


def _may_join(op: Conv) -> bool:
    """Rules 1 and 2, of one alone."""
    plain = op.epilogue.stages in ((), (AddBias(),), (Relu(),), (AddBias(), Relu()))
    return plain and op.epilogue.stores == (StoreBorder(),) and op.spec.group == 1


def _key(op: Conv) -> Hashable:
    """Equal for convolutions of one group of rule 1."""
    return op.input, replace(op.spec, out_channels=0, weight_range=None, weight_step=1, winograd=())


def _joint(members: Sequence[Conv], weight: np.ndarray) -> Conv:
    first = members[0]
    forms = [form for form in first.spec.winograd if all(form in op.spec.winograd for op in members)]
    spec = replace(
        first.spec,
        out_channels=len(weight),
        weight_range=weight_range(weight),
        weight_step=weight_step(weight),
        winograd=tuple(forms),
    )
    levels = max(1, len(spec.levels))
    stages, operands = list[Stage](), list[np.ndarray]()
    if any(op.parameters for op in members):
        stages.append(AddBias())
        operands.append(_joined([_bias(op, levels) for op in members], levels))
    rectified = [Relu() in op.epilogue.stages for op in members]
    if all(rectified):
        stages.append(Relu())
    elif any(rectified):
        stages.append(Bound(upper=False))
        lowest = np.where(rectified, 0, _LOWEST).astype(np.int32)
        channels = np.repeat(lowest, [op.spec.out_channels for op in members])
        operands.append(np.tile(channels, levels))
    parts = tuple(op.spec.out_channels for op in members)
    return Conv(
        "+".join(op.name for op in members),
        first.input,
        "+".join(op.weight for op in members),
        spec,
        Epilogue(tuple(stages), (StoreBorder(parts),)),
        tuple(operands),
        tuple(name for op in members for name in op.outputs),
    )


def _bias(op: Conv, levels: int) -> np.ndarray:
    """int32 [levels · channels], its only parameter; zeros where it has none."""
    (bias,) = op.parameters or [np.zeros(levels * op.spec.out_channels, np.int32)]
    return bias


def _joined(arrays: Sequence[np.ndarray], levels: int) -> np.ndarray:
    """[levels · channels] of all channels."""
    return np.concatenate([array.reshape(levels, -1) for array in arrays], axis=1).reshape(-1)
