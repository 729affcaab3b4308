"""The entry to the convolution kernels: one call picks the family for a geometry and an instruction set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aqd_deploy.errors import ShapeError
from aqd_deploy.kernels.conv_blocked import blocked_layout, can_block, conv_blocked
from aqd_deploy.kernels.conv_depthwise import conv_depthwise, depthwise_layout, is_depthwise
from aqd_deploy.kernels.conv_loops import conv_loops, loops_layout
from aqd_deploy.kernels.dots import DOTS
from aqd_deploy.kernels.isa import Isa
from aqd_deploy.kernels.layout import WeightLayout
from aqd_deploy.kernels.spec import ConvSpec, Epilogue


@dataclass(frozen=True)
class Kernel:
    """One convolution as a TIR function, and how its weights lie.

    `prim_func` has no global symbol. Its parameters: data uint8 or int8 [H, W, I]; weights int8
    `packed_shape`; step parameters, store parameters and outputs [OH, OW, O] as in `spec.Epilogue`. Outputs
    must not alias inputs. `name` is the family, `why` the reason for it.
    """

    prim_func: Any
    layout: WeightLayout
    name: str
    why: str

    @property
    def packed_shape(self) -> tuple[int, ...]:
        return self.layout.shape


def conv2d(spec: ConvSpec, epilogue: Epilogue, isa: Isa, threads: int) -> Kernel:
    """The kernel for `spec` on `isa`; `threads` is the size of the pool it will run in.

    Raises ShapeError where the geometry has no output or channels do not divide into groups.
    """
    _check(spec)
    dots = DOTS[isa]
    if is_depthwise(spec):
        return Kernel(
            conv_depthwise(spec, epilogue, isa, threads),
            depthwise_layout(spec, isa),
            "depthwise",
            "one channel a group: vectors of channels",
        )
    if can_block(spec, dots):
        return Kernel(
            conv_blocked(spec, epilogue, dots, threads),
            blocked_layout(spec, dots),
            f"blocked_{isa.value}",
            f"{spec.out_channels // spec.group} output channels a group: register tiles, packed weights",
        )
    return Kernel(
        conv_loops(spec, epilogue, threads),
        loops_layout(spec),
        "loops",
        f"groups of {spec.out_channels // spec.group} output channels do not fill {dots.lanes} lanes"
        + (" or have odd weights" if spec.odd else ""),
    )


def _check(spec: ConvSpec) -> None:
    if spec.out_height < 1 or spec.out_width < 1:
        raise ShapeError(
            "convolution has no output",
            received=f"{spec.out_height}x{spec.out_width}",
            valid="an input at least as large as the kernel",
        )
    if spec.in_channels % spec.group or spec.out_channels % spec.group:
        raise ShapeError(
            "channels do not divide into groups",
            received=f"{spec.in_channels} -> {spec.out_channels} in {spec.group} groups",
            valid="channel counts that are multiples of the group count",
        )
