"""The backend of CPUs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aqd_deploy.kernels.contract.caches import CORE, Core
from aqd_deploy.kernels.contract.choice import Choice
from aqd_deploy.kernels.contract.kernel import Instructions, Kernel, Peak, Stream
from aqd_deploy.kernels.contract.spec import ConvSpec, Epilogue
from aqd_deploy.kernels.cpu.conv.families import FAMILIES, conv2d, conv_choices, conv_estimates
from aqd_deploy.kernels.cpu.isa import assembly
from aqd_deploy.kernels.cpu.isa.select import instruction_set
from aqd_deploy.kernels.cpu.movement import pointwise as maps
from aqd_deploy.kernels.cpu.movement import pyramid_stack, sampling, selection
from aqd_deploy.kernels.cpu.stream import streams
from aqd_deploy.kernels.cpu.unpack import constants, weights
from aqd_deploy.targets.isa import Isa

# What one thread does in about ten microseconds, which is what it takes to wake the others.
SERIAL_MACS = 1_000_000
SERIAL_BYTES = 64 * 1024


@dataclass(frozen=True)
class CpuBackend:
    """Kernels written for vectors and registers of `isa`. Raises TargetError where there are none for it."""

    isa: Isa
    core: Core = CORE

    def __post_init__(self) -> None:
        instruction_set(self.isa)

    def threads_of(self, threads: int, *, macs: int = 0, moved: int = 0) -> int:
        return threads if macs >= SERIAL_MACS or moved >= SERIAL_BYTES else 1

    def choices(self, spec: ConvSpec, threads: int) -> tuple[Choice, ...]:
        return conv_choices(spec, self.isa, threads, self.core)

    def estimate(self, spec: ConvSpec, threads: int) -> float:
        return conv_estimates(spec, self.isa, threads, self.core)[0][0]

    def convolution(
        self, spec: ConvSpec, epilogue: Epilogue, threads: int, choice: Choice | None = None
    ) -> Kernel:
        return conv2d(spec, epilogue, self.isa, threads, choice, self.core)

    def instructions(self, spec: ConvSpec, choice: Choice) -> Instructions | None:
        product = FAMILIES[choice.family].product(spec, self.isa, choice)
        return Instructions(product.name, product.mnemonics) if product and product.mnemonics else None

    def pointwise(
        self, height: int, width: int, channels: int, epilogue: Epilogue, threads: int, dtype: str
    ) -> Any:
        return maps.epilogue_func(height, width, channels, epilogue, self.isa, threads, dtype)

    max_pool = staticmethod(maps.max_pool)
    upsample = staticmethod(maps.upsample)
    pad = staticmethod(maps.pad)
    concat = staticmethod(maps.concat)
    slice = staticmethod(selection.slice_map)
    gather = staticmethod(selection.gather)
    depth_to_space = staticmethod(selection.depth_to_space)
    rearrange = staticmethod(selection.rearrange)
    sum_pool = staticmethod(sampling.sum_pool)
    resize_linear = staticmethod(sampling.resize_linear)
    stack = staticmethod(pyramid_stack.stack)
    unstack = staticmethod(pyramid_stack.unstack)
    to_channels_last = staticmethod(maps.nchw_to_nhwc)
    to_channels_first = staticmethod(pyramid_stack.to_channels_first)

    unpack_weights = staticmethod(weights.unpack_func)
    expand_constants = staticmethod(constants.expand_func)
    expand_rice_codes = staticmethod(constants.expand_rice_func)
    huge_pages = staticmethod(constants.huge_pages_func)

    inner_loop = staticmethod(assembly.inner_loop)

    def peaks(self, threads: int, steps: int) -> list[Peak]:
        return instruction_set(self.isa).peak_functions(threads, steps)

    def streams(self, threads: int) -> list[Stream]:
        return streams(self.core, threads)
