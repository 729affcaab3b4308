"""The families of register tiles: `blocked`, and `bytes` whose products add in 8 bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from aqd_deploy.kernels.contract.caches import CORE, Core
from aqd_deploy.kernels.contract.choice import Choice
from aqd_deploy.kernels.contract.kernel import Layout
from aqd_deploy.kernels.contract.spec import ConvSpec, Epilogue
from aqd_deploy.kernels.cpu.conv.blocked import blocked_layout, can_block, conv_blocked
from aqd_deploy.kernels.cpu.conv.blocking import Blocking, blockings
from aqd_deploy.kernels.cpu.conv.family import Family
from aqd_deploy.kernels.cpu.conv.level_blocking import largest
from aqd_deploy.kernels.cpu.conv.padded_rows import needs_strip
from aqd_deploy.kernels.cpu.conv.pooled import conv_pooled
from aqd_deploy.kernels.cpu.isa.dot_product import DotProduct
from aqd_deploy.kernels.cpu.isa.select import byte_dots, tile_dots
from aqd_deploy.targets.isa import Isa

# How much longer register tiles take than their cost model says, next to which Winograd's is measured.
BLOCKED_OVER_ESTIMATE = 1.25


@dataclass(frozen=True)
class RegisterTiles(Family):
    """The family `name` with the products that `dots` gives, None where it has none."""

    name: str
    dots: Callable[[ConvSpec, Isa, Core], DotProduct | None]
    pools: ClassVar[bool] = True

    def applies(self, spec: ConvSpec, isa: Isa) -> str:
        dots = self.dots(spec, isa, CORE)
        if dots is None or not can_block(spec, dots):
            return ""
        size = spec.out_channels // spec.group
        return f"{size} output channels a group: register tiles, packed weights; {dots.reason}"

    def choices(self, spec: ConvSpec, isa: Isa, threads: int, core: Core) -> list[tuple[float, Choice]]:
        dots = self._dots(spec, isa, core)
        layout = blocked_layout(spec, dots)
        main = spec.alone(spec.maps[largest(spec)])
        pixels = main.out_height * main.out_width
        share = spec.out_height * spec.out_width / pixels * BLOCKED_OVER_ESTIMATE
        return [
            (cycles * share, Choice.of(self.name, **plan.parameters()))
            for cycles, plan in blockings(main, layout, dots, threads, needs_strip(spec, layout, dots))
        ]

    def build(
        self, spec: ConvSpec, epilogue: Epilogue, isa: Isa, threads: int, choice: Choice, core: Core
    ) -> tuple[Any, Layout]:
        dots = self._dots(spec, isa, core)
        plan = Blocking.from_parameters(dict(choice.parameters))
        write = conv_blocked if epilogue.pool is None else conv_pooled
        return write(spec, epilogue, dots, threads, plan), blocked_layout(spec, dots)

    def product(self, spec: ConvSpec, isa: Isa, choice: Choice) -> DotProduct | None:
        return self.dots(spec, isa, CORE)

    def writes_once(self, spec: ConvSpec, isa: Isa, choice: Choice) -> bool:
        blocks = blocked_layout(spec, self._dots(spec, isa, CORE)).blocks // spec.group
        plan = Blocking.from_parameters(dict(choice.parameters))
        return not spec.levels and plan.writes_once(spec, blocks)

    def stores_borders(self, spec: ConvSpec, isa: Isa, choice: Choice) -> bool:
        return True

    def _dots(self, spec: ConvSpec, isa: Isa, core: Core) -> DotProduct:
        dots = self.dots(spec, isa, core)
        assert dots is not None
        return dots


BLOCKED = RegisterTiles("blocked", tile_dots)
BYTES = RegisterTiles("bytes", byte_dots)
