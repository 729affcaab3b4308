"""Plan → plan: the first convolution of an image with few channels reads rows of patches.

Sixteen bytes are the least that tensor cores are fed with. Of an image of three channels that is a sixth of a
patch of seven pixels; so what one row of a kernel reads of a row of the image becomes one pixel of many
channels, and the kernel one pixel wide. Rules, each with the reason it needs:

1. A network input that only this convolution reads, itself or behind a `Pad` of its own: the rows replace
   both the copy to channels-last and the padding.
2. A kernel wider than one pixel, in one channel group, on one map, whose rows have at most `MOST` values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from aqd_deploy.compiler.plan import Conv, Movement, OneInput, OneOutput, Operation, Pad, Plan, ToChannelsLast
from aqd_deploy.integer.ranges import Interval
from aqd_deploy.kernels.contract.spec import ConvSpec

MOST = 64


@dataclass(frozen=True)
class Patches(OneInput, OneOutput, Movement):
    """The network input `input` [1, C, H, W] → [H + top + bottom, columns, kernel width · C]: what each row
    of patches reads, in the order [x of the kernel][C]. `pads` (top, left, bottom, right) have `values` a
    channel.
    """

    name: str
    input: str
    output: str
    width: int
    stride: int
    dilation: int
    pads: tuple[int, int, int, int]
    values: tuple[int, ...]

    def interval(self, sources: Sequence[Interval]) -> Interval:
        channels = self.width * len(self.values)
        lowest = min(int(sources[0].lo.min()), *self.values)
        return Interval.uniform(channels, lowest, max(int(sources[0].hi.max()), *self.values))


def image_patches(plan: Plan) -> Plan:
    """`plan`, whose inputs have their `ToChannelsLast`, with rows of patches where the rules allow them."""
    readers: dict[str, list[Operation]] = {}
    for op in plan.operations:
        for name in op.reads:
            readers.setdefault(name, []).append(op)
    for op in plan.operations:
        if isinstance(op, ToChannelsLast):
            plan = _replaced(plan, op, readers)
    return plan


def _replaced(plan: Plan, first: ToChannelsLast, readers: dict[str, list[Operation]]) -> Plan:
    chain: list[Operation] = [first]
    while len(readers.get(chain[-1].writes[0], [])) == 1 and not isinstance(chain[-1], Conv):
        chain.append(readers[chain[-1].writes[0]][0])
        if not isinstance(chain[-1], Conv | Pad):
            return plan
    conv = chain[-1]
    if not isinstance(conv, Conv) or len(chain) > 3 or not _applies(conv.spec) or conv.added:
        return plan
    info, spec = plan.tensors[first.output], conv.spec
    pad = chain[1] if isinstance(chain[1], Pad) else None
    values = pad.values if pad else (0,) * info.channels
    top, left, bottom, right = pad.pads if pad else spec.pads
    if pad and any(spec.pads):
        return plan
    name, channels = f"{first.output}:patches", spec.kernel[1] * info.channels
    height, columns = info.height + top + bottom, spec.out_width
    patches = Patches(
        name, first.input, name, spec.kernel[1], spec.strides[1], spec.dilations[1],
        (top, left, bottom, right), values,
    )  # fmt: skip
    weight = plan.weights[conv.weight].transpose(0, 3, 1, 2).reshape(spec.out_channels, channels, -1, 1)
    narrow = replace(
        spec, height=height, width=columns, in_channels=channels, kernel=(spec.kernel[0], 1),
        strides=(spec.strides[0], 1), pads=(0, 0, 0, 0), dilations=(spec.dilations[0], 1), winograd=(),
    )  # fmt: skip
    weights = {**plan.weights, f"{conv.weight}:patches": np.ascontiguousarray(weight)}
    tensors = {**plan.tensors, name: replace(info, height=height, width=columns, channels=channels)}
    after = replace(conv, input=name, weight=f"{conv.weight}:patches", spec=narrow)
    gone = {id(op) for op in chain[1:-1]}
    swapped = {id(first): patches, id(conv): after}
    operations = [swapped.get(id(op), op) for op in plan.operations if id(op) not in gone]
    return replace(plan, operations=operations, weights=weights, tensors=tensors)


def _applies(spec: ConvSpec) -> bool:
    """Rule 2."""
    plain = spec.group == 1 and not spec.levels and spec.pad_values is None
    return plain and spec.kernel[1] > 1 and spec.kernel[1] * spec.in_channels <= MOST
